"""Rows of jsonl files: one JSON object a line; a broken line costs one row and can be named."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data.sources.base import Row, require_columns
from userdp.sim.data.sources.files import FileSource

_HEAD = 1000  # rows in which every wanted column must occur


def _rows(file: Path, columns: Mapping[str, str]) -> Iterator[Row]:
    from userdp.sim.data.sources import streams  # slow to import

    rows = (
        Row(f"{file}, line {number}", _json_object(line))
        for number, line in enumerate(streams.lines(file), 1)
        if line.strip()
    )
    head = list(itertools.islice(rows, _HEAD))
    available = dict.fromkeys(name for row in head for name in row.columns or ())
    if head and not available:
        raise ConfigurationError(f"data.format='jsonl': {file} holds nothing of that format")
    if head:
        require_columns(columns, available, str(file))
    yield from head
    yield from rows


def _json_object(line: str) -> Mapping[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


SOURCE = FileSource(suffix="jsonl", read=_rows)
