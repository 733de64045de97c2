"""The figure by groups of users shows what a run writes of them: both use the code under test."""

from __future__ import annotations

import numpy as np
import pytest

from helpers import run_folders
from userdp.analysis.aggregates import group_disparity as disparity_table
from userdp.analysis.aggregates import seed_groups
from userdp.analysis.report.figures import group_disparity
from userdp.clients.evaluation.heldout import Evaluation, RecordScores
from userdp.sim.data.population import Population
from userdp.sim.run.simulation_only import user_groups
from userdp.sim.run_folder import reader

# By number of records there is one user in each group: few, middle and many.
USERS = Population.of({"a": [[1, 2]], "b": [[1, 2]] * 2, "c": [[1, 2, 3]] * 3})
GAINS = {1: (0.1, 0.2, 0.3), 2: (0.4, 0.5, 0.6), 3: (0.2, 0.0, 1.0)}  # by seed and user
GROUPS = ("few", "middle", "many")
STRATEGIES = ("group_privacy", "user_wise")
RULES = ("random", "longest", "shortest", "high_perplexity", "low_perplexity", "random_chunk")


def scores(losses: tuple[float, ...]) -> Evaluation:
    """Every record has one scored token; records of a user have the same loss."""
    users = np.repeat([0, 1, 2], [1, 2, 3])
    by_record = np.asarray(losses)[users]
    tokens = np.ones(len(users), np.int64)
    return Evaluation(
        by_record.mean(), 6, records=RecordScores(users=users, losses=by_record, tokens=tokens)
    )


def run(folder, gains: tuple[float, ...], **settings):
    """A run whose users' losses fall from 5 by ``gains``."""
    path = run_folders.write(folder, **settings)
    after = tuple(5 - gain for gain in gains)
    user_groups.write(
        path / disparity_table.FILE, USERS, {0: scores((5.0, 5.0, 5.0)), 4: scores(after)}
    )
    return path


def test_a_groups_change_is_its_gain_as_the_median_and_range_of_the_seeds(tmp_path):
    for seed, gains in GAINS.items():
        run(tmp_path / str(seed), gains, seed=seed)
    run_folders.write(tmp_path / "plain", strategy="non_private")  # without a file: not drawn
    plots = group_disparity.section(seed_groups.tasks(reader.read(tmp_path))).plots
    assert len(plots) == len(user_groups.GROUPS)
    [plot] = [plot for plot in plots if plot.name.endswith("records")]
    assert plot.simulation_only
    figures = {group: rest for _, group, *rest in plot.rows}
    for number, group in enumerate(GROUPS):
        changes = sorted(-gains[number] for gains in GAINS.values())
        assert figures[group] == pytest.approx([changes[1], changes[0], changes[2], 3])


def test_what_is_drawn_is_what_the_table_of_gains_says(tmp_path):
    run(tmp_path / "private", GAINS[1])
    run(tmp_path / "plain", GAINS[2], strategy="non_private")
    runs = reader.complete([tmp_path])
    table = {
        (row["grouping"], row["strategy"], row["group"]): row["gain"]
        for row in disparity_table.table(runs)
    }
    figure = {
        (plot.name.split("_")[1], name, group): -change
        for plot in group_disparity.section(seed_groups.tasks(runs)).plots
        for name, group, change, *_ in plot.rows
    }
    names = {"non_private": "non-private", "user_wise": "user_wise, epsilon 3"}
    assert figure == {
        (grouping, names[strategy], group): gain
        for (grouping, strategy, group), gain in table.items()
    }


def _every_selection(folder) -> None:
    for strategy in STRATEGIES:
        for rule in RULES:
            run(folder / f"{strategy}-{rule}", GAINS[1], strategy=strategy, selection=rule)


def _series(folder) -> set[str]:
    [plot] = [
        p
        for p in group_disparity.section(seed_groups.tasks(reader.read(folder))).plots
        if "records" in p.name
    ]
    return {name for name, *_ in plot.rows}


def test_many_selections_of_one_strategy_do_not_crowd_out_another(tmp_path):
    _every_selection(tmp_path)
    shown = _series(tmp_path)
    for strategy in STRATEGIES:
        assert sum(name.startswith(strategy) for name in shown) == len(shown) / 2 > 1


def test_a_line_of_several_epsilons_is_drawn_without_the_single_points_beside_it(tmp_path):
    _every_selection(tmp_path)
    for strategy in STRATEGIES:
        run(tmp_path / f"{strategy}-8", GAINS[2], strategy=strategy, epsilon=8.0)
    assert _series(tmp_path) == {f"{s}, random, epsilon {e}" for s in STRATEGIES for e in (3, 8)}
