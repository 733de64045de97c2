"""Rows of parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from userdp.sim.data.sources.base import Row
from userdp.sim.data.sources.files import FileSource


def _rows(file: Path, columns: Mapping[str, str]) -> Iterator[Row]:
    from userdp.sim.data.sources import streams  # slow to import

    return streams.parquet_rows(file, columns)


SOURCE = FileSource(suffix="parquet", read=_rows)
