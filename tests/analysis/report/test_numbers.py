"""A report's numbers: what is read of run folders, and what each figure says of them."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest

from helpers import run_folders
from userdp.analysis.aggregates import seed_groups, series
from userdp.analysis.report import command
from userdp.analysis.report.figures import (
    epsilon_by_round,
    gain_kept,
    noise_and_signal,
    utility_by_selection,
)
from userdp.analysis.report.figures.figure import Plot, Section
from userdp.analysis.report.page import run_table
from userdp.sim.run_folder import config_diff, reader


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return run_folders.sweep(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def found(sweep) -> list[reader.Run]:
    return reader.read(sweep)


@pytest.fixture(scope="module")
def sections(found) -> dict[str, Section]:
    return {section.name: section for section in command.sections(found)}


def numbers(plot: Plot) -> dict[tuple, tuple]:
    """(series, x) -> median, low, high, runs."""
    return {(name, x): tuple(rest) for name, x, *rest in plot.rows}


def test_every_run_at_any_depth_is_found_with_its_state(found):
    states = {run.name: run.state for run in found}
    assert len(states) == 12 + 3
    assert states.pop("stopped") == "incomplete"
    assert set(states.values()) == {"complete"}


def test_the_frontier_is_the_median_and_range_of_the_seeds_at_each_epsilon(sections):
    [plot] = sections["frontier"].plots
    told = numbers(plot)
    # By hand: seeds are off by -4, 1 and 9 from 120 and 80; group privacy is 10 above. The run
    # with k = 10 scored 70 and replaces the cell of k = 4 whose median is 81.
    assert told["user_wise", 0.999] == (121.0, 116.0, 129.0, 3)
    assert told["user_wise", 7.992] == (70.0, 70.0, 70.0, 1)
    assert told["group_privacy", 0.999] == (131.0, 126.0, 139.0, 3)
    assert told["group_privacy", 7.992] == (91.0, 86.0, 99.0, 3)
    assert told["non-private", ""] == (60.0, 60.0, 60.0, 1)
    assert told["base model", ""][:3] == (400.0, 400.0, 400.0)
    assert len(told) == 6
    assert "chosen by held-out score" in plot.note


def test_perplexity_by_k_has_every_k_of_an_epsilon(sections):
    [plot] = sections["records"].plots
    told = numbers(plot)
    assert told["user_wise", 4.0] == (81.0, 76.0, 89.0, 3)
    assert told["user_wise", 10.0] == (70.0, 70.0, 70.0, 1)
    assert not [name for name, _ in told if name == "group_privacy"]


def test_an_incomplete_run_enters_no_figure(sections):
    drawn = [value for s in sections.values() for p in s.plots for row in p.rows for value in row]
    assert 50.0 not in drawn


def test_every_run_is_in_the_table_and_its_csv(found, tmp_path):
    rows = [run_table.values(run) for run in found]
    run_table.write(tmp_path / "runs.csv", rows)
    with (tmp_path / "runs.csv").open() as file:
        stored = {row["run"]: row for row in csv.DictReader(file)}
    assert set(stored) == {run.name for run in found}
    assert float(stored["k/10"]["heldout_perplexity"]) == 70.0
    assert stored["stopped"]["heldout_perplexity"] == ""
    assert float(stored["stopped"]["epsilon"]) == 2.0  # spent so far: four rounds of 0.5


def test_seeds_and_places_are_no_setting(tmp_path):
    run_folders.write(tmp_path / "a", seed=1, engine__max_lanes=1)
    run_folders.write(tmp_path / "b", seed=2, engine__max_lanes=8)
    run_folders.write(tmp_path / "c", seed=2, optimizer__lr=0.02)
    [task] = seed_groups.tasks(reader.read(tmp_path))
    assert sorted(len(cell.runs) for cell in task.cells) == [1, 2]


def test_runs_on_other_data_are_never_in_one_figure(tmp_path):
    for data in ("mail", "plays"):
        for epsilon in (1.0, 8.0):
            where = tmp_path / f"{data}{epsilon}"
            run_folders.write(where, epsilon=epsilon, data__path=f"in/{data}/data.jsonl")
    section = command.sections(reader.read(tmp_path))[0]
    assert [plot.title.rpartition(": ")[2] for plot in section.plots] == ["mail", "plays"]
    assert all(len(numbers(plot)) == 3 for plot in section.plots)


def test_tasks_without_a_path_have_names_and_files_of_their_own(tmp_path):
    for data, users in (("synthetic", 9), ("form_letters", 9), ("synthetic", 10)):
        for epsilon in (1.0, 8.0):
            own = {"data__format": data, "data__users": users, "model__kind": "embedded"}
            run_folders.write(tmp_path / f"{data}{users}{epsilon}", epsilon=epsilon, **own)
    plots = [plot for s in command.sections(reader.read(tmp_path)) for plot in s.plots]
    assert len({plot.name for plot in plots}) == len(plots)
    assert not [plot.title for plot in plots if "None" in plot.title]


def test_noise_and_signal_are_those_that_the_releases_were_made_of(found):
    run = next(run for run in found if run.private)
    [(_, norm), *_] = noise_and_signal.noise_norms(run)
    assert math.isclose(norm, 0.01 * math.sqrt(run_folders.D))
    assert math.isclose(noise_and_signal.signal(run), 0.3)


def test_the_signal_estimate_is_unbiased_where_noise_hides_it_in_many_rounds():
    """Releases drawn with a signal of 0.2 under noise of norm 3.2: half the rounds show 0."""
    rng, size, std = np.random.default_rng(5), 1024, 0.1
    true = np.full(size, 0.2 / math.sqrt(size))
    rows = []
    for number in range(1, 4001):
        norm = float(np.linalg.norm(true + rng.normal(0, std, size)))
        square = max(0.0, norm**2 - size * std**2)
        figures = {"noise_std_on_mean": std, "release_norm": norm, "signal_norm": square**0.5}
        rows.append({"round": number, **figures})
    run = reader.Run(name="", folder=None, state="complete", rows=tuple(rows))
    assert noise_and_signal.signal(run) ** 2 == pytest.approx(0.04, abs=4 * 0.453 / math.sqrt(4000))
    assert np.mean([row["signal_norm"] ** 2 for row in rows]) > 0.15  # what cutting adds


def test_the_accountants_curve_ends_at_what_the_mechanism_costs(sections):
    plot = next(p for p in sections["accountants"].plots if p.name.endswith("user_wise"))
    told = numbers(plot)
    assert told["PLD", 4.0][0] == run_folders.truly(4)
    assert told["PLD", 1.0][0] == run_folders.truly(1)
    assert told["RDP", 4.0][0] > told["PLD", 4.0][0]


def test_a_statement_of_slots_is_accounted_as_a_group():
    own = run_folders.told_by(strategy="user_wise", epsilon=1.0, k=4, rounds=1)
    assert epsilon_by_round.event_of(own).group_size == 1
    assert epsilon_by_round.event_of(own | {"clipped_unit": "record_slot"}).group_size == 4


def test_the_best_accuracy_is_the_highest(tmp_path):
    for lr, accuracy in ((0.1, 0.5), (0.2, 0.7)):
        own = {"summary": {"heldout_accuracy": accuracy}, "optimizer__lr": lr}
        run_folders.write(tmp_path / str(lr), **own)
    [task] = seed_groups.tasks(reader.read(tmp_path))
    [line] = series.series(task.private, lambda cell: cell.level).values()
    assert [cell.score.median for cell in line] == [0.7]


def test_only_keys_that_differ_are_differences(found):
    told = {d.key: d.values for d in config_diff.differing(found)}
    assert set(told) == {"privacy.epsilon", "seed", "strategy.clip_norm", "strategy.name",
                         "strategy.records_per_user"}  # fmt: skip
    assert told["strategy.records_per_user"]["10"] == ("k/10",)
    assert config_diff.common(found)["optimizer.lr"] == "0.01"


def test_a_job_that_ended_in_an_error_is_listed_with_it(tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "failed.txt").write_text("strategy.tau=9: too large.\nTraceback ...\n")
    [run] = reader.read(tmp_path)
    assert (run.state, run.why) == ("failed", "strategy.tau=9: too large.")
    assert run_table.values(run)["run"] == "0"


@pytest.mark.parametrize(
    ("name", "text", "state"),
    [
        ("privacy_statement.json", "{", "failed"),
        ("config.yaml", "a: [", "failed"),
        ("metrics.jsonl", "[]\n", "failed"),
        ("metrics.jsonl", '{"round": 1, "epsilon": 2.0}\n{"round": 2, "eps', "incomplete"),
    ],
)
def test_a_damaged_run_is_told_and_ends_nothing(tmp_path, name, text, state):
    run_folders.write(tmp_path / "run")
    (tmp_path / "run" / name).write_text(text)
    [run] = reader.read(tmp_path)
    assert run.state == state
    assert run.why
    assert seed_groups.tasks([run]) == []


def test_the_share_kept_is_of_the_best_plain_run_with_equal_gradients(tmp_path):
    def run(name, loss, **own):
        summary = {"heldout_loss": loss, "heldout_loss_before": 6.0}
        run_folders.write(tmp_path / name, cohort=100, summary=summary, **own)

    run("private-1", 5.2, seed=1)
    run("private-2", 5.6, seed=2)
    run("many", 5.0, k=8)
    run("plain", 5.0, strategy="non_private")
    run("plain-worse", 5.5, strategy="non_private", optimizer__lr=1.0)
    run("plain-longer", 4.0, strategy="non_private", k=8)
    [own, other] = sorted(
        gain_kept.shares(seed_groups.tasks(reader.read(tmp_path))[0]).cells, key=lambda c: c.k
    )
    assert (own.score.low, own.score.median, own.score.high) == pytest.approx((0.4, 0.6, 0.8))
    assert other.score.median == pytest.approx(0.5)  # k = 8 beside 4.0, not beside 5.0
    [plot] = gain_kept.section(seed_groups.tasks(reader.read(tmp_path))).plots
    [(_, _, median, *_)] = plot.rows
    assert median == pytest.approx(0.6)  # the better of the two k


def test_without_equal_gradients_no_share_is_told(tmp_path):
    run_folders.write(tmp_path / "private", cohort=100)
    run_folders.write(tmp_path / "plain", cohort=50, strategy="non_private")
    assert not gain_kept.section(seed_groups.tasks(reader.read(tmp_path))).plots


def test_group_privacy_by_the_lemma_is_a_line_of_its_own(tmp_path):
    run_folders.write(tmp_path / "tight", strategy="group_privacy", perplexity=80.0)
    bound = {"privacy__group_bound": "lemma"}
    run_folders.write(tmp_path / "lemma", strategy="group_privacy", perplexity=90.0, **bound)
    own = {
        cell.strategy: cell.score.median
        for cell in seed_groups.tasks(reader.read(tmp_path))[0].cells
    }
    assert own == {"group_privacy": 80.0, "group_privacy (lemma)": 90.0}


def test_selections_of_one_epsilon_do_not_crowd_the_lines_of_gain_kept(tmp_path):
    run_folders.write(tmp_path / "plain", cohort=100, strategy="non_private")
    for epsilon in (1.0, 8.0):
        run_folders.write(tmp_path / f"{epsilon}", cohort=100, epsilon=epsilon)
    run_folders.write(tmp_path / "longest", cohort=100, selection="longest", epsilon=8.0)
    [plot] = gain_kept.section(seed_groups.tasks(reader.read(tmp_path))).plots
    assert {name for name, *_ in plot.rows} == {"user_wise, random"}


def test_selections_are_compared_at_the_k_with_most_of_them(tmp_path):
    """Random at k = 10 is the best run, but no rule was tried beside it."""
    for number, rule in enumerate(("random", "longest", "shortest")):
        for k in (2, 5):
            place = tmp_path / f"{rule}-{k}"
            run_folders.write(place, selection=rule, k=k, perplexity=100.0 + 10 * number - k)
    run_folders.write(tmp_path / "best", k=10, perplexity=50.0)
    [plot] = utility_by_selection.plots(seed_groups.tasks(reader.read(tmp_path))[0])
    assert plot.title.endswith("k = 5")
    assert {rule: median for _, rule, median, *_ in plot.rows} == {
        "random": 95.0,
        "longest": 105.0,
        "shortest": 115.0,
    }
