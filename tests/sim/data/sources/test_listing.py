"""Which files of a folder are read: no hidden or unfinished one, and none is skipped in silence."""

from __future__ import annotations

import gzip
import logging
import os

import pytest

from helpers.corpora import ROWS, by_user, load, texts
from helpers.hostile_files import contents
from userdp.sim.common.errors import ConfigurationError

LEFT_OUT = [
    ".hidden.jsonl",
    "._a.jsonl",
    "_a.jsonl",
    "_SUCCESS",
    "a.jsonl.crdownload",
    "a.jsonl.part",
    "a.jsonl.tmp",
    "a.jsonl~",
    "notes.txt",
    ".ipynb_checkpoints/a.jsonl",
    "_temporary/0/a.jsonl",
    "b/.git/a.jsonl",
]


def folder(tmp_path, *names):
    for name in names:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents([("eve", "not read")], "jsonl"))
    (tmp_path / "in" / "deep" / "er").mkdir(parents=True)
    (tmp_path / "in" / "a.jsonl").write_bytes(contents(ROWS[:2], "jsonl"))
    (tmp_path / "in" / "deep" / "B.JSONL").write_bytes(contents(ROWS[2:4], "jsonl"))
    packed = gzip.compress(contents(ROWS[4:], "jsonl"))
    (tmp_path / "in" / "deep" / "er" / "c.jsonl.gz").write_bytes(packed)
    return tmp_path / "in"


def test_hidden_and_unfinished_files_are_left_out_and_told(tmp_path, caplog):
    path = folder(tmp_path, *LEFT_OUT)
    caplog.set_level(logging.WARNING)
    assert texts(load(path, tmp_path).train) == by_user(ROWS)
    [told] = [record.getMessage() for record in caplog.records]
    assert f"read 3 files and left out {len(LEFT_OUT)}" in told
    assert "\n" not in told


def test_nothing_is_told_where_all_is_read_and_a_file_named_itself_is_read(tmp_path, caplog):
    path = folder(tmp_path)
    caplog.set_level(logging.WARNING)
    load(path, tmp_path)
    for name in ("_a.jsonl", "a.jsonl.tmp", ".a"):
        (path / name).write_bytes(contents(ROWS, "jsonl"))
        assert texts(load(path / name, tmp_path).train) == by_user(ROWS)
    assert caplog.records == []


def test_a_pattern_leaves_the_same_files_out_and_tells_folders_too(tmp_path, caplog):
    path = folder(tmp_path, "a.jsonl.crdownload", "a.jsonl.tmp")
    assert texts(load(path / "*", tmp_path).train) == by_user(ROWS[:2])
    assert "read 1 files and left out 3" in caplog.text  # two files, and the folder `deep`


def test_links_are_followed_once_and_a_broken_one_is_refused(tmp_path):
    path = folder(tmp_path)
    os.symlink(path, path / "deep" / "loop")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "z.jsonl").write_bytes(contents([("zoe", "linked")], "jsonl"))
    os.symlink(tmp_path / "other", path / "linked")
    assert texts(load(path, tmp_path).train) == by_user([*ROWS, ("zoe", "linked")])
    os.symlink(tmp_path / "gone", path / "gone.jsonl")
    with pytest.raises(ConfigurationError, match="link to a file that is not there"):
        load(path, tmp_path)


def test_a_folder_that_cannot_be_listed_is_one_line(tmp_path, monkeypatch):
    path = folder(tmp_path)
    real = os.scandir

    def scandir(place):
        if str(place).endswith("deep"):
            raise PermissionError(13, "Permission denied", place)
        return real(place)

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(ConfigurationError, match=r"deep cannot be read: Permission denied"):
        load(path, tmp_path)


@pytest.mark.parametrize("path", ["", "  "])
def test_an_empty_path_is_missing_and_not_the_working_folder(tmp_path, monkeypatch, path):
    monkeypatch.chdir(folder(tmp_path))
    for form in ("jsonl", "hub"):
        with pytest.raises(ConfigurationError, match=r"data\.path is missing"):
            load(path, tmp_path, format=form)
