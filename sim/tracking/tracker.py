"""Trackers write a run's metrics: to a file of JSON lines, to several sinks, or nowhere.

A tracker writes only metrics of the table (``userdp.sim.tracking.metric_kinds``). Those that depend
on private data are written only if this was switched on, under the prefix ``simulation_only/``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from userdp.sim.common import durable_file
from userdp.sim.tracking import metric_kinds

Values = Mapping[str, metric_kinds.Value]
Rows = Sequence[Sequence[str]]
NONE: Values = {}  # no metrics


class Tracker(Protocol):
    """Writes the metrics of one run, from ``start`` to ``close``."""

    def start(self, config: Mapping[str, Any]) -> None:
        """Begin a run with this public configuration, as nested plain values."""
        ...

    def log(self, number: int, values: Values, simulation_only: Values = NONE) -> None:
        """Write the metrics of round ``number``.

        Raises:
            ValueError: a key is not in the table, or is passed as another kind than its own.
        """
        ...

    def summary(self, values: Values, simulation_only: Values = NONE) -> None:
        """Write the figures of the whole run.

        Raises:
            ValueError: as `log`.
        """
        ...

    def texts(self, key: str, columns: Sequence[str], rows: Rows) -> None:
        """Write a table of released or public texts, of the whole run.

        Args:
            key: in the table of metrics.
            columns: names.
            rows: each with a text for every column.

        Raises:
            ValueError: the table of metrics lacks the key, or its kind is simulation_only.
        """
        ...

    def artifact(self, path: Path, name: str, kind: str) -> None:
        """Store a file or folder of the run; ``kind`` is its type, for example ``model``."""
        ...

    def close(self) -> None:
        """Write what is buffered, and release the sink."""
        ...


class NullTracker:
    """Checks the metrics and writes nothing."""

    def start(self, config: Mapping[str, Any]) -> None:
        pass

    def log(self, number: int, values: Values, simulation_only: Values = NONE) -> None:
        metric_kinds.typed(values, simulation_only, keep=False)

    def summary(self, values: Values, simulation_only: Values = NONE) -> None:
        metric_kinds.typed(values, simulation_only, keep=False)

    def texts(self, key: str, columns: Sequence[str], rows: Rows) -> None:
        metric_kinds.check_texts(key)

    def artifact(self, path: Path, name: str, kind: str) -> None:
        pass

    def close(self) -> None:
        pass


class JsonlTracker:
    """Writes a JSON object a line, ``{"round": 3, "epsilon": 1.2, ...}``, before ``log`` returns.

    A resumed run goes on in the same file, so rounds never go back in it. ``summary`` is a line
    with the number of the last round and the prefix ``summary/`` before its keys. Configuration and
    artifacts are files of the run folder and are not written again.
    """

    def __init__(self, path: Path, *, simulation_only: bool = False) -> None:
        self._path, self._keep = path, simulation_only
        self._file: BinaryIO | None = None
        self._round = 0

    def start(self, config: Mapping[str, Any]) -> None:
        self._round = _last_round(_cut_torn_line(self._path))
        self._file = self._path.open("ab", buffering=0)  # a failed write leaves nothing to flush

    def log(self, number: int, values: Values, simulation_only: Values = NONE) -> None:
        row = metric_kinds.typed(values, simulation_only, keep=self._keep)
        self._round = number
        self._write({"round": number, **row})

    def summary(self, values: Values, simulation_only: Values = NONE) -> None:
        row = metric_kinds.typed(values, simulation_only, keep=self._keep)
        self._write({"round": self._round} | {f"summary/{key}": row[key] for key in row})

    def texts(self, key: str, columns: Sequence[str], rows: Rows) -> None:
        metric_kinds.check_texts(key)  # they are a file of the run folder, as artifacts are

    def artifact(self, path: Path, name: str, kind: str) -> None:
        pass

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, row: Mapping[str, Any]) -> None:
        if self._file is None:
            raise ValueError(f"{self._path} is not open: call start first.")
        with durable_file.naming(self._path):
            durable_file.write_all(self._file, json.dumps(row, allow_nan=False).encode() + b"\n")


def _cut_torn_line(path: Path) -> bytes:
    """Remove an unfinished last line, left by a crash; returns the others, each valid JSON."""
    if not path.exists():
        return b""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.truncate(path, len(whole))
    return whole


def _last_round(lines: bytes) -> int:
    """Number of the last round that was logged; 0 where there is none that can be read."""
    for line in reversed(lines.splitlines()):
        try:
            return int(json.loads(line)["round"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0


class Fanout:
    """Passes everything to several trackers, in order."""

    def __init__(self, *trackers: Tracker) -> None:
        self._trackers = trackers

    def start(self, config: Mapping[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.start(config)

    def log(self, number: int, values: Values, simulation_only: Values = NONE) -> None:
        for tracker in self._trackers:
            tracker.log(number, values, simulation_only)

    def summary(self, values: Values, simulation_only: Values = NONE) -> None:
        for tracker in reversed(self._trackers):  # the first one's marks the run as complete
            tracker.summary(values, simulation_only)

    def texts(self, key: str, columns: Sequence[str], rows: Rows) -> None:
        for tracker in self._trackers:
            tracker.texts(key, columns, rows)

    def artifact(self, path: Path, name: str, kind: str) -> None:
        for tracker in self._trackers:
            tracker.artifact(path, name, kind)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()
