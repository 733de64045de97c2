"""Rows of jsonl files: one JSON object a line; a broken line costs one row and can be named."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data.sources import text_lines
from userdp.sim.data.sources.base import Row, require_columns
from userdp.sim.data.sources.files import FileSource

_HEAD = 1000  # rows in which every wanted column must occur
TWICE = "a key occurs twice"


def _rows(file: Path, columns: Mapping[str, str]) -> Iterator[Row]:
    _check_head(file, columns)
    yield from _parsed(file, set(columns.values()))


def _check_head(file: Path, columns: Mapping[str, str]) -> None:
    """Refuse a file without the wanted columns; reads until each has occurred, and keeps no row."""
    wanted, available, empty = set(columns.values()), dict[str, None](), True
    for row in itertools.islice(_parsed(file, wanted), _HEAD):
        empty = False
        available |= dict.fromkeys(row.columns or ())
        if wanted <= available.keys() or row.fault is not None:  # a fault is told by itself
            return
    if not empty and not available:
        raise ConfigurationError(f"data.format='jsonl': {file} holds nothing of that format")
    if not empty:
        require_columns(columns, available, str(file))


def _parsed(file: Path, wanted: Set[str]) -> Iterator[Row]:
    parser = _Parser(wanted)
    for number, line in enumerate(text_lines.lines(file), 1):
        if not line.isspace():
            yield parser.row(f"{file}, line {number}", line)


class _Parser:
    """Parses lines, and sees keys that occur twice in an object: which value counts is not said."""

    def __init__(self, wanted: Set[str]) -> None:
        self._wanted, self._twice = wanted, False
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)

    def row(self, place: str, line: str) -> Row:
        """The row of a line.

        A key that occurs twice breaks a row if it is a wanted column or inside of one; elsewhere it
        does no harm, and only ``data.strict`` refuses it.
        """
        self._twice = False
        try:
            value = self._decoder.decode(line)
        except (ValueError, RecursionError):
            return Row(place, None)
        if not isinstance(value, dict):
            return Row(place, None)
        if not self._twice:
            return Row(place, value)
        wanted = {name: item for name, item in value.items() if name in self._wanted}
        harmed = not self._wanted.isdisjoint(_repeated(value)) or _has_repeats(wanted)
        return Row(place, None if harmed else value, TWICE)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) == len(pairs):
            return value
        self._twice = True
        counts = Counter(name for name, _ in pairs)
        return _Ambiguous(value, [name for name, count in counts.items() if count > 1])


class _Ambiguous(dict[str, Any]):
    """An object with keys that occurred twice."""

    def __init__(self, value: dict[str, Any], repeated: list[str]) -> None:
        super().__init__(value)
        self.repeated = repeated


def _repeated(value: dict[str, Any]) -> list[str]:
    return value.repeated if isinstance(value, _Ambiguous) else []


def _has_repeats(value: Any) -> bool:
    """Whether an object inside of the value, or the value, has a key that occurred twice."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, _Ambiguous):
            return True
        if isinstance(item, dict | list):
            pending.extend(item.values() if isinstance(item, dict) else item)
    return False


SOURCE = FileSource(suffix="jsonl", read=_rows, is_text=True)
