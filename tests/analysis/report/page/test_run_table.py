"""The table of runs: every run at any depth, complete or not, with its state and figures."""

from __future__ import annotations

import csv

import pytest

from helpers import run_folders
from userdp.analysis.aggregates import seed_groups
from userdp.analysis.report.page import run_table
from userdp.sim.run_folder import reader


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[reader.Run]:
    return reader.read(run_folders.sweep(tmp_path_factory.mktemp("sweep")))


def test_every_run_at_any_depth_is_found_with_its_state(runs):
    states = {run.name: run.state for run in runs}
    assert len(states) == 12 + 3
    assert states.pop("stopped") == "incomplete"
    assert set(states.values()) == {"complete"}


def test_every_run_is_in_the_table_and_its_csv(runs, tmp_path):
    rows = [run_table.values(run) for run in runs]
    run_table.write(tmp_path / "runs.csv", rows)
    with (tmp_path / "runs.csv").open() as file:
        stored = {row["run"]: row for row in csv.DictReader(file)}
    assert set(stored) == {run.name for run in runs}
    assert float(stored["k/10"]["heldout_perplexity"]) == 70.0
    assert stored["stopped"]["heldout_perplexity"] == ""
    assert float(stored["stopped"]["epsilon"]) == 2.0  # spent so far: four rounds of 0.5


def test_a_job_that_ended_in_an_error_is_listed_with_the_error(tmp_path):
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
def test_a_damaged_run_is_listed_and_does_not_end_the_report(tmp_path, name, text, state):
    run_folders.write(tmp_path / "run")
    (tmp_path / "run" / name).write_text(text)
    [run] = reader.read(tmp_path)
    assert run.state == state
    assert run.why
    assert seed_groups.tasks([run]) == []
