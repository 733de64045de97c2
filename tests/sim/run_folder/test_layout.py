"""When a run folder counts as complete or begun, and where the files of runs and sweeps are."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import run_folders
from userdp.sim.run_folder import layout
from userdp.sim.run_folder.layout import RunFolder, SweepFolder

ROW = json.dumps({"round": 1, "heldout_loss": 4.0})
SUMMARY = json.dumps({"round": 1, "summary/heldout_loss": 4.0})
FILES = ("config", "statement", "ledger", "failure", "output", "groups")


@given(files=st.sets(st.sampled_from(FILES)), lines=st.none() | st.lists(st.booleans(), max_size=3))
def test_complete_is_configuration_statement_and_a_last_line_with_the_summary(files, lines):
    """``lines``: whether each line of the metrics is a summary; None: there are no metrics."""
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place))
        for name in files:
            getattr(folder, name).write_text("")
        if lines is not None:
            rows = [SUMMARY if is_summary else ROW for is_summary in lines]
            folder.metrics.write_text("".join(f"{row}\n" for row in rows))
        ended = bool(lines) and lines[-1]
        assert folder.complete == (ended and {"config", "statement"} <= files)
        marked = {"ledger", "statement", "failure"} & files
        assert folder.begun == (bool(marked) or lines is not None)


@pytest.mark.parametrize("missing", ["config", "statement", "metrics"])
def test_a_run_without_one_of_its_files_is_not_complete(tmp_path, missing):
    folder = RunFolder(run_folders.write(tmp_path / "run"))
    assert folder.complete
    getattr(folder, missing).unlink()
    assert not folder.complete
    assert folder.begun


def test_a_run_that_was_resumed_after_its_summary_is_not_complete(tmp_path):
    folder = RunFolder(run_folders.write(tmp_path / "run"))
    with folder.metrics.open("a") as file:
        file.write(ROW + "\n")
    assert not folder.complete


def test_a_folder_that_is_not_there_is_neither_begun_nor_complete(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert not folder.begun
    assert not folder.complete


def test_the_files_of_a_run_are_in_its_folder_under_different_names(tmp_path):
    folder = RunFolder(tmp_path)
    names = [name for name, value in vars(RunFolder).items() if isinstance(value, property)]
    paths = [
        getattr(folder, name) for name in names if name not in ("complete", "begun", "released")
    ]
    assert len(set(paths)) == len(paths) >= 12
    assert all(path.is_relative_to(tmp_path) for path in paths)


def test_a_job_of_a_sweep_has_its_number_as_its_folder(tmp_path):
    sweep = SweepFolder(tmp_path)
    assert sweep.job(7).path == tmp_path / "7"
    assert {sweep.index.parent, sweep.lock.parent} == {tmp_path}


def test_ledgers_are_found_at_any_depth_in_the_order_of_their_paths(tmp_path):
    folders = [tmp_path, tmp_path / "b", tmp_path / "a" / "0"]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        RunFolder(folder).ledger.write_text("")
    ledgers = layout.ledgers(tmp_path)
    assert [path.parent for path in ledgers] == [folders[2], folders[1], folders[0]]
