"""The table of a sweep says what the folders say, in a terminal and in a file."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path

import pytest

from helpers import small_world
from userdp.sim.run_folder import reader
from userdp.sim.sweep import jobs, live_table
from userdp.sim.sweep.jobs import Job

pytestmark = pytest.mark.slow  # whole runs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def four(tmp_path: Path) -> list[Job]:
    overrides = small_world.overrides("cohort=3,4,5,6")
    return jobs.compose(overrides, tmp_path)


def write(job: Job, *rows: dict, begun: bool = True) -> None:
    job.folder.path.mkdir(exist_ok=True)
    job.folder.config.write_text("rounds: 2")
    job.folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if begun:
        job.folder.output.write_text("userdp run")


def finish(job: Job) -> None:
    write(
        job,
        {"round": 0, "heldout_perplexity": 300.0},
        {"round": 2, "epsilon": 7.981},
        {"round": 2, "heldout_perplexity": 250.0},
        {"round": 2, "summary/epsilon": 7.981},
    )
    job.folder.statement.write_text("{}")


def shown(four: list[Job], stream: io.StringIO) -> str:
    """One is complete before; then one ends, one fails and one is at work."""
    finish(four[0])
    write(four[3], {"round": 1, "epsilon": 3.0}, begun=False)  # interrupted in an earlier start
    with live_table.LiveTable(four, stream):
        finish(four[1])
        write(four[2], {"round": 1, "epsilon": 4.002})
        jobs.record_failure(four[2].folder, ValueError("no"))
        write(four[3], {"round": 1, "epsilon": 3.0}, {"round": 2, "epsilon": 4.0})
    return stream.getvalue()


def test_a_file_gets_a_line_whenever_a_job_changes(four):
    assert shown(four, io.StringIO()).splitlines() == [
        "job 1 (cohort=4): complete, epsilon 7.99, perplexity 250",
        "job 2 (cohort=5): failed, epsilon 4.01",
        "job 3 (cohort=6): running, epsilon 4.00",
    ]


def test_a_terminal_shows_a_line_a_job_and_how_many_are_where(four):
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown(four, Terminal()))
    last = plain.rpartition("2 complete, 1 running, 0 waiting, 1 failed")[2]
    lines = [line.split() for line in last.splitlines() if "cohort=" in line]
    assert lines == [
        ["0", "cohort=3", "complete", "2/2", "7.99", "perplexity", "250"],
        ["1", "cohort=4", "complete", "2/2", "7.99", "perplexity", "250"],
        ["2", "cohort=5", "failed", "1/2", "4.01"],
        ["3", "cohort=6", "running", "2/2", "4.00"],
    ]


def test_a_small_terminal_shows_where_the_sweep_is(tmp_path, monkeypatch):
    monkeypatch.setenv("LINES", "12")
    many = jobs.compose(small_world.overrides("cohort=range(1,13)"), tmp_path)
    for job in many[:8]:
        finish(job)
    stream = Terminal()
    with live_table.LiveTable(many, stream) as seen:
        names = [job.number for job in seen._in_view()]
    assert names == [6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize("lost", ["metrics.jsonl", "privacy_statement.json", None])
def test_a_run_has_ended_where_statement_and_summary_are_there(four, lost):
    """A copied folder may lack either: such a job is not complete, for reports as for sweeps."""
    finish(four[0])
    four[0].folder.config.write_text("rounds: 2")
    path = four[0].folder.metrics
    path.write_text(path.read_text().replace("summary/epsilon", "summary/heldout_loss"))
    four[0].folder.statement.write_text('{"private": true}')
    if lost is not None:
        (four[0].folder.path / lost).unlink()
    assert four[0].folder.complete == (lost is None)
    [run] = reader.read(four[0].folder.path)
    assert run.complete == (lost is None)
    with live_table.LiveTable(four[:1], io.StringIO()) as seen:
        assert seen._rows[0].state == ("complete" if lost is None else "waiting")


def test_an_epsilon_without_end_is_shown_as_one(four):
    write(four[0], {"round": 1, "epsilon": math.inf})
    assert live_table._last_written(four[0].folder.metrics).figures == "epsilon infinite"


def test_half_a_line_is_no_figure(four):
    write(four[0], {"round": 1, "epsilon": 1.0})
    path = four[0].folder.metrics
    path.write_text(path.read_text() + '{"round": 2, "eps')
    assert live_table._last_written(path).round == 1
