"""Pass rates of the concentration test over a sweep, and one run's statistic by round."""

from __future__ import annotations

import json

from helpers import run_folders
from helpers.figures import numbers
from userdp.analysis.aggregates import seed_groups
from userdp.analysis.report.figures import concentration_test
from userdp.sim.run_folder import reader


def run(folder, passed: tuple[int, ...], **settings):
    """A run whose rounds had these outcomes, with a statistic of 10 or 20 and a threshold of 15."""
    rows = [
        {"round": number, "test_passed": outcome, "test_statistic": 10.0 + 10 * outcome}
        for number, outcome in enumerate(passed, 1)
    ]
    settings |= {"strategy": "concentrated", "rounds": len(passed)}
    path = run_folders.write(folder, metrics=rows, **settings)
    statement = json.loads((path / "privacy_statement.json").read_text())
    statement["mechanism_details"] = {"on_failure": "halt", "test_threshold": 15.0}
    (path / "privacy_statement.json").write_text(json.dumps(statement))
    return path


def section(folder):
    return concentration_test.section(seed_groups.tasks(reader.read(folder)))


def test_a_sweep_has_the_pass_rates_of_its_seeds_and_counts_halted_runs(tmp_path):
    run(tmp_path / "a", (1, 1, 1, 0), seed=1)
    run(tmp_path / "b", (1, 1, 1, 1), seed=2)
    run(tmp_path / "c", (1, 0), epsilon=8.0)
    [plot] = section(tmp_path).plots
    rates = {setting: figures for setting, *figures in plot.rows}
    assert rates["epsilon 3, ?"] == [0.875, 0.75, 1.0, 1, 2]
    assert rates["epsilon 8, ?"] == [0.5, 0.5, 0.5, 1, 1]


def test_a_single_run_has_its_statistic_by_round_and_the_threshold(tmp_path):
    run(tmp_path / "a", (1, 0))
    [plot] = section(tmp_path).plots
    assert numbers(plot)["noised statistic", 1] == (20.0, 20.0, 20.0, 1)
    assert numbers(plot)["threshold to pass", ""][0] == 15.0
    assert "A failed test ended the run." in plot.note
