"""What a page draws of groups and canaries is what a run writes of them, by the same code."""

from __future__ import annotations

import numpy as np
import pytest

from helpers import run_folders
from userdp.analysis.aggregates import canary_exposure as exposures
from userdp.analysis.aggregates import group_disparity, seed_groups
from userdp.analysis.report.figures import canary_exposure
from userdp.analysis.report.figures import group_disparity as drawn
from userdp.clients.evaluation.heldout import Evaluation, RecordScores
from userdp.sim.data.population import Population
from userdp.sim.run.simulation_only import canary_exposure as exposure
from userdp.sim.run.simulation_only import user_groups
from userdp.sim.run_folder import reader

# By number of records: few has one user, middle and many too.
PEOPLE = Population.of({"a": [[1, 2]], "b": [[1, 2]] * 2, "c": [[1, 2, 3]] * 3})
GAINS = {1: (0.1, 0.2, 0.3), 2: (0.4, 0.5, 0.6), 3: (0.2, 0.0, 1.0)}  # by seed and user
GROUPS = ("few", "middle", "many")


def scores(losses: tuple[float, ...]) -> Evaluation:
    """Every record has one scored token; records of a user have the same loss."""
    users = np.repeat([0, 1, 2], [1, 2, 3])
    own = np.asarray(losses)[users]
    tokens = np.ones(len(users), np.int64)
    return Evaluation(own.mean(), 6, records=RecordScores(users=users, losses=own, tokens=tokens))


def run(folder, gains: tuple[float, ...], **own):
    """A run whose users' losses fall from 5 by ``gains``."""
    path = run_folders.write(folder, **own)
    after = tuple(5 - gain for gain in gains)
    user_groups.write(
        path / group_disparity.FILE, PEOPLE, {0: scores((5.0, 5.0, 5.0)), 4: scores(after)}
    )
    return path


def test_a_groups_change_is_its_gain_as_the_median_and_range_of_the_seeds(tmp_path):
    for seed, gains in GAINS.items():
        run(tmp_path / str(seed), gains, seed=seed)
    run_folders.write(tmp_path / "plain", strategy="non_private")  # without a file: not drawn
    plots = drawn.section(seed_groups.tasks(reader.read(tmp_path))).plots
    assert len(plots) == len(user_groups.GROUPS)
    [plot] = [plot for plot in plots if plot.name.endswith("records")]
    assert plot.simulation_only
    told = {group: figures for _, group, *figures in plot.rows}
    for place, group in enumerate(GROUPS):
        changes = sorted(-gains[place] for gains in GAINS.values())
        assert told[group] == pytest.approx([changes[1], changes[0], changes[2], 3])


def test_what_is_drawn_is_what_the_table_of_gains_says(tmp_path):
    run(tmp_path / "private", GAINS[1])
    run(tmp_path / "plain", GAINS[2], strategy="non_private")
    found = reader.complete([tmp_path])
    table = {
        (row["grouping"], row["strategy"], row["group"]): row["gain"]
        for row in group_disparity.table(found)
    }
    page = {
        (plot.name.split("_")[1], name, group): -change
        for plot in drawn.section(seed_groups.tasks(found)).plots
        for name, group, change, *_ in plot.rows
    }
    names = {"non_private": "non-private", "user_wise": "user_wise, epsilon 3"}
    assert page == {(of, names[who], group): gain for (of, who, group), gain in table.items()}


STRATEGIES = ("group_privacy", "user_wise")
RULES = ("random", "longest", "shortest", "high_perplexity", "low_perplexity", "random_chunk")


def _every_selection(folder) -> None:
    for strategy in STRATEGIES:
        for rule in RULES:
            run(folder / f"{strategy}-{rule}", GAINS[1], strategy=strategy, selection=rule)


def _series(folder) -> set[str]:
    [plot] = [
        p
        for p in drawn.section(seed_groups.tasks(reader.read(folder))).plots
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


def test_exposure_is_the_mean_canary_of_the_last_round_over_seeds(tmp_path):
    """Beside 1 / ln 2, which is what a mean comes to where nothing was learned."""
    ranks = {1: (1, 512, 1024), 2: (256, 256, 256), 3: (1, 1, 1)}
    for seed, after in ranks.items():
        path = run_folders.write(tmp_path / str(seed), seed=seed, data__canary_references=1023)
        by_round = {0: np.array([1, 1, 1]), 4: np.array(after)}
        exposure.write(path / exposures.FILE, by_round, 1023)
    found = reader.complete([tmp_path])
    [plot] = canary_exposure.section(seed_groups.tasks(found)).plots
    told = {name: figures for name, _, *figures in plot.rows}
    assert told["user_wise"] == pytest.approx([11 / 3, 2, 10, 3])  # bits (10, 1, 0), 2 and 10
    assert told["nothing learned"][0] == pytest.approx(1 / np.log(2))
    [row] = exposures.table(found)
    assert (row["bits_least"], row["bits_most"], row["bits_limit"]) == (0, 10, 10)
