"""The hash of a file: that of its bytes now, read again only when the file may have changed."""

from __future__ import annotations

import hashlib
import os
import time

import pytest

from userdp.sim.common import file_hash


@pytest.fixture
def settled(monkeypatch):
    """Lets a file count as unchanged at once, without the wait of two seconds."""
    monkeypatch.setattr(file_hash, "SETTLED_NS", -1)


def of(text: str) -> str:
    return hashlib.blake2b(text.encode()).hexdigest()


def test_the_hash_is_that_of_the_bytes(tmp_path):
    file = tmp_path / "mail"
    for text in ("one", "two", ""):
        file.write_text(text)
        assert file_hash.of(file, tmp_path / "cache") == of(text)


def test_an_unchanged_file_is_not_read_again(tmp_path, settled, monkeypatch):
    file = tmp_path / "mail"
    file.write_text("one")
    assert file_hash.of(file, tmp_path / "cache") == of("one")
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert file_hash.of(file, tmp_path / "cache") == of("one")


def test_another_content_of_the_same_size_and_time_is_noticed(tmp_path, settled):
    """Size and modification time can be set from outside; the change time cannot."""
    file = tmp_path / "mail"
    for text in ("one", "two"):
        file.write_text(text)
        os.utime(file, ns=(0, 0))
        assert file_hash.of(file, tmp_path / "cache") == of(text)
        time.sleep(0.02)  # a tick of the clock


def test_a_file_that_took_the_place_of_another_is_noticed(tmp_path, settled):
    file, other = tmp_path / "mail", tmp_path / "other"
    for path, text in ((file, "one"), (other, "two")):
        path.write_text(text)
        os.utime(path, ns=(0, 0))
    file_hash.of(file, tmp_path / "cache")
    other.replace(file)
    assert file_hash.of(file, tmp_path / "cache") == of("two")


def test_the_hash_of_a_file_that_changed_a_moment_ago_is_not_stored(tmp_path):
    file = tmp_path / "mail"
    file.write_text("one")
    file_hash.of(file, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.json"))


@pytest.mark.parametrize("entry", ["", "{}", "[]", '{"stamp": 1, "digest": "x"}', "null"])
def test_a_damaged_entry_of_the_cache_is_as_none(tmp_path, settled, entry):
    file = tmp_path / "mail"
    file.write_text("one")
    file_hash.of(file, tmp_path / "cache")
    [stored] = (tmp_path / "cache").rglob("*.json")
    stored.write_text(entry)
    assert file_hash.of(file, tmp_path / "cache") == of("one")
