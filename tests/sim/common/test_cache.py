"""Folders of the cache appear complete or not at all, and keys change with every part."""

from __future__ import annotations

from pathlib import Path

import pytest

from userdp.sim.common import cache


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
