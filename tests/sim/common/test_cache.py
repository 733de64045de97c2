"""Folders of the cache appear complete or not at all, and keys change with every part."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from userdp.sim.common import cache
from userdp.sim.common.errors import ConfigurationError


def test_the_root_is_the_most_specific_variable(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("USERDP_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.cache_root() == Path("/home/ada/.cache/userdp")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache.cache_root() == Path("/cache/userdp")
    monkeypatch.setenv("USERDP_CACHE", "/mine")
    assert cache.cache_root() == Path("/mine")


def test_a_key_changes_with_every_part_and_with_nothing_else():
    parts = [("a", 1), ("a", 2), ("b", 1), ("a1",), ("a", "1"), (("a", 1),), ("a", 1, None)]
    keys = [cache.fingerprint(*part) for part in parts]
    assert len(set(keys)) == len(parts)
    assert keys == [cache.fingerprint(*part) for part in parts]
    assert {len(key) for key in keys} == {32}


def test_a_folder_is_built_once(tmp_path):
    builds = []

    def build(folder: Path) -> None:
        builds.append(folder)
        (folder / "data").write_text("built")

    folder = tmp_path / "deep" / "key"
    for _ in range(2):
        assert cache.published(folder, build) == folder
    assert len(builds) == 1
    assert [path.name for path in folder.iterdir()] == ["data"]
    assert list(folder.parent.iterdir()) == [folder]


def test_an_interrupted_build_leaves_nothing(tmp_path):
    def build(folder: Path) -> None:
        (folder / "data").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.published(tmp_path / "key", build)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_process_built_meanwhile_is_taken_as_it_is(tmp_path):
    folder = tmp_path / "key"

    def build(unfinished: Path) -> None:
        (unfinished / "data").write_text("ours")
        folder.mkdir()
        (folder / "data").write_text("theirs")

    assert cache.published(folder, build) == folder
    assert (folder / "data").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_name_is_a_function_of_its_parts_and_of_the_key_of_this_cache_alone(tmp_path):
    """Who lacks the key cannot tell from a name which of two files was used."""
    here, there = tmp_path / "here", tmp_path / "there"
    parts = [("corpora", "a"), ("corpora", "b"), ("digests", "a"), ("corpora", "a", None)]
    places = [cache.place(here, *part) for part in parts]
    assert len({place.name for place in places}) == len(parts)
    assert places == [cache.place(here, *part) for part in parts]
    assert places[0].parent == here / "corpora"
    assert not places[0].exists()
    assert cache.place(there, *parts[0]).name != places[0].name
    (here / cache.KEY_FILE).replace(there / cache.KEY_FILE)
    assert cache.place(there, *parts[0]).name == places[0].name


def test_only_the_owner_may_read_the_key_and_a_damaged_one_is_made_anew(tmp_path):
    before = cache.place(tmp_path, "corpora", 1)
    key = tmp_path / cache.KEY_FILE
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(key.read_bytes()) == 32
    key.write_bytes(b"short")
    after = cache.place(tmp_path, "corpora", 1)
    assert after != before
    assert after == cache.place(tmp_path, "corpora", 1)
    assert [path.name for path in tmp_path.iterdir()] == [cache.KEY_FILE]


def test_of_two_processes_that_make_the_key_both_use_one(tmp_path, monkeypatch):
    def other_was_faster(first, second):
        cache.Path(second).write_bytes(b"k" * 32)
        raise FileExistsError

    monkeypatch.setattr(cache.os, "link", other_was_faster)
    name = cache.place(tmp_path, "corpora", 1)
    monkeypatch.undo()
    assert name == cache.place(tmp_path, "corpora", 1)
    assert [path.name for path in tmp_path.iterdir()] == [cache.KEY_FILE]


def test_a_damaged_result_is_built_anew_and_an_unusable_cache_names_its_variable(tmp_path):
    def build(folder):
        (folder / "value").write_text("3")

    def read(folder):
        return int((folder / "value").read_text())

    place = cache.place(tmp_path, "kind", 1)
    assert cache.stored(place, build, read) == 3
    (place / "value").write_text("")  # cut by a crash
    assert cache.stored(place, build, read) == 3
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"^USERDP_CACHE=.*Not a directory"):
        cache.place(tmp_path / "file", "kind", 1)

    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ConfigurationError, match=r"^USERDP_CACHE=.*No space left"):
        cache.published(tmp_path / "kind" / "other", full)

    def unreadable(folder):
        raise PermissionError(errno.EACCES, "Permission denied", "/data/mail.jsonl")

    with pytest.raises(PermissionError):  # of what is read to be stored
        cache.published(tmp_path / "kind" / "other", unreadable)


def test_without_a_home_folder_the_variable_is_asked_for(monkeypatch):
    for name in ("USERDP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(cache.Path, "home", homeless)
    with pytest.raises(ConfigurationError, match="USERDP_CACHE"):
        cache.cache_root()
