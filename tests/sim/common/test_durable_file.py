"""Durable files are replaced whole or not at all, and deleted with what a crash left of them."""

from __future__ import annotations

import os
import stat

import pytest

from userdp.sim.common import durable_file


def test_a_file_is_replaced_in_a_folder_that_need_not_exist(tmp_path):
    path = tmp_path / "new" / "folder" / "state"
    for content in (b"first", b"second"):
        durable_file.replace(path, content)
        assert path.read_bytes() == content
    assert [item.name for item in path.parent.iterdir()] == ["state"]


def test_the_mode_is_that_of_the_new_file_whatever_a_crash_left(tmp_path):
    (tmp_path / "state.tmp").write_text("left by a crash, readable by all")
    (tmp_path / "state.tmp").chmod(0o666)
    durable_file.replace(tmp_path / "state", b"secret", mode=0o600)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o600


@pytest.mark.parametrize("failing", ["fsync", "write"])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, failing):
    path = tmp_path / "state"
    durable_file.replace(path, b"old")
    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk")))
        with pytest.raises(OSError, match="disk"):
            durable_file.replace(path, b"new")
    else:
        with pytest.raises(TypeError):
            durable_file.replace(path, "text, not bytes")
    assert path.read_bytes() == b"old"


def test_content_and_name_are_synced_before_it_returns(tmp_path, monkeypatch):
    kinds, sync = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda file: (kinds.append(stat.S_ISDIR(os.fstat(file).st_mode)), sync(file))
    )
    durable_file.replace(tmp_path / "state", b"content")
    assert kinds == [False, True]


def test_deletion_takes_the_rest_of_a_crash_along_and_may_come_twice(tmp_path):
    durable_file.replace(tmp_path / "state", b"content")
    (tmp_path / "state.tmp").touch()
    for _ in range(2):
        durable_file.remove(tmp_path / "state")
        assert not list(tmp_path.iterdir())
    durable_file.remove(tmp_path / "no folder" / "state")
