"""An offline wandb file, read back by wandb's own records, without an account or a network."""

from __future__ import annotations

import json

import pytest


def isolate(monkeypatch, tmp_path):
    """No account, no settings of the person who runs the tests, and no server to reach."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")


def records(folder):
    """What wandb wrote for the one run in ``folder``; the file is a LevelDB log."""
    internal = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    data, position, part = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length = int.from_bytes(data[position + 4 : position + 6], "little")
        kind = data[position + 6]
        part += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield internal.Record.FromString(part)
            part = b""


def wait_for_files():
    """A finished run's file is written by wandb's own process; stopping that completes it."""
    pytest.importorskip("wandb").teardown()


def history(folder):
    """Each row; keys inside a value are joined to its own by a dot."""
    return [
        {".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records(folder)
        if record.WhichOneof("record_type") == "history"
    ]


def summary(folder):
    """The last value of each key of the run's summary."""
    found = {}
    for record in records(folder):
        if record.WhichOneof("record_type") == "summary":
            for item in record.summary.update:
                found[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    return found


def artifacts(folder):
    """(name, type, path of a file in it) of every artifact."""
    kept = [record.request.log_artifact.artifact for record in records(folder)]
    kept += [record.artifact for record in records(folder)]
    return {
        (one.name, one.type, entry.path)
        for one in kept
        for entry in one.manifest.contents
        if one.type
    }
