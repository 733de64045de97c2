"""Forges run folders as someone would who knows the format: the chain has no key to keep."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

Entries = list[dict[str, Any]]


def resealed(folder: Path, edit: Callable[[Entries], Entries | None]) -> None:
    """Edit a ledger's entries and recompute every hash, and all that names one.

    The checkpoint gets the head of its round, the ledger its digest, and the statement the head.
    """
    path = folder / "ledger.jsonl"
    entries: Entries = [json.loads(line) for line in path.read_text().splitlines()]
    entries = edit(entries) or entries
    state = folder / "checkpoint" / "state.pt"
    stored = torch.load(state, weights_only=True) if state.exists() else {}
    sealed(path, entries, state, stored)


def sealed(
    path: Path, entries: Entries, state: Path | None = None, stored: dict[str, Any] | None = None
) -> None:
    """Write entries as a ledger whose chain is whole; a stored checkpoint gets its round's head."""
    previous, lines = "", []
    for entry in entries:
        body = {k: v for k, v in entry.items() if k not in ("previous", "hash")}
        if state and stored and (body["kind"], body.get("round")) == ("done", stored["round"]):
            stored["ledger_head"] = previous
            torch.save(stored, state)
            body["release"] = hashlib.sha256(state.read_bytes()).hexdigest()
        bound = {**body, "previous": previous}
        previous = hashlib.sha256(_line(bound).encode()).hexdigest()
        lines.append(_line({**bound, "hash": previous}))
    path.write_text("".join(f"{line}\n" for line in lines))


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, separators=(",", ":"))


def mechanism(entries: Entries, **changes: Any) -> None:
    """Change facts of the header and, where they stand there too, of every intent."""
    header = entries[0]["mechanism"]
    for name, value in changes.items():
        if name in header["event"]:
            header["event"] = {**header["event"], name: value}
        else:
            header[name] = value
    for entry in entries:
        if entry["kind"] == "intent":
            entry["event"] = copy.deepcopy(header["event"])


def state(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edit the values of a stored checkpoint."""
    path = folder / "checkpoint" / "state.pt"
    values = torch.load(path, weights_only=True)
    edit(values)
    torch.save(values, path)


def configuration(folder: Path, key: str, value: Any) -> None:
    """Change one value of the stored configuration by its dotted name."""
    path = folder / "config.yaml"
    values = yaml.safe_load(path.read_text())
    *groups, last = key.split(".")
    level = values
    for group in groups:
        level = level[group]
    assert last in level
    level[last] = value
    path.write_text(yaml.safe_dump(values))
