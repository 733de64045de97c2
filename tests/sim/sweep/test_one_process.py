"""No two processes carry out one sweep, or take up one job: who writes holds a lock.

A lock of another file handle keeps us out as that of another process does.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from pathlib import Path

import pytest

from helpers import small_world
from helpers.sweeps import GRID, stamps, sweep
from userdp.server.ledger import ledger
from userdp.sim import cli
from userdp.sim.run import prepare
from userdp.sim.run_folder.layout import RunFolder, SweepFolder
from userdp.sim.sweep import jobs

pytestmark = pytest.mark.slow  # whole runs

MINE = Path("mine")
SWEEP = SweepFolder(MINE)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))


@pytest.mark.parametrize(("written", "ended"), [(False, False), (True, False), (True, True)])
def test_two_processes_do_not_start_one_sweep(monkeypatch, capsys, written, ended):
    """The other starts while ours checks its jobs: it holds the folder, said so, has ended."""
    other = contextlib.ExitStack()

    def start_other(*_):
        other.enter_context(jobs.exclusive(SWEEP))
        if written:
            jobs.write_index(
                jobs.compose(small_world.overrides(*GRID[:2]), MINE), SWEEP, ["theirs"]
            )
        if ended:
            other.close()

    monkeypatch.setattr(prepare, "check", start_other)
    with other:
        assert sweep(*GRID) == 2
    assert "another process" in capsys.readouterr().err
    assert SWEEP.index.exists() == written
    assert not written or json.loads(SWEEP.index.read_text())["overrides"] == ["theirs"]
    assert not stamps()


def test_two_processes_do_not_go_on_with_one_sweep(capsys):
    with jobs.exclusive(SWEEP):
        jobs.write_index(jobs.compose(small_world.overrides(*GRID[:2]), MINE), SWEEP, GRID)
        assert sweep(*GRID) == 2
    assert "another process" in capsys.readouterr().err
    assert not stamps()


def test_a_ledger_is_locked_before_it_is_read(monkeypatch):
    """Else its owner could spend a round between the look and the removal."""
    assert cli.main(["run", *small_world.overrides("output=mine/0")]) == 0
    [job] = jobs.compose(small_world.overrides(), MINE)
    looks, real = [], ledger.verify

    def verify(path):
        with path.open("rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        looks.append(path)
        return real(path)

    monkeypatch.setattr(ledger, "verify", verify)
    assert jobs.clear_or_resume(job).resume == "mine/0"
    assert looks == [Path("mine/0/ledger.jsonl")]
    assert RunFolder(Path("mine/0")).complete  # what another start completed keeps its statement
