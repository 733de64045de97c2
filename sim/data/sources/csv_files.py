"""Rows of csv files with a header; a row with broken quoting costs one row and can be named."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data.sources.base import Row, SourceRequest, require_columns
from userdp.sim.data.sources.files import FileSource

_LONGEST_FIELD = 1 << 24  # characters; a longer field is taken for a quote that never closes


@dataclass(frozen=True, kw_only=True)
class CsvSource(FileSource):
    """Csv files, whose values are texts."""

    def check(self, request: SourceRequest) -> None:
        """Also refuse conversations, which are lists; raises as `Source.check` does."""
        if (chat := request.columns.get("data.chat")) is not None:
            raise ConfigurationError(
                f"data.chat={chat!r}: a csv file holds no lists of messages; use jsonl or parquet"
            )
        super().check(request)


def _rows(file: Path, columns: Mapping[str, str]) -> Iterator[Row]:
    from userdp.sim.data.sources import streams  # slow to import

    reader = csv.reader(streams.lines(file), strict=True)
    header = next(_csv_records(reader), (1, None))[1] or []
    require_columns(columns, header, str(file))
    for line, values in _csv_records(reader):
        if values is None or len(values) != len(header):
            yield Row(f"{file}, line {line}", None)
        else:
            yield Row(f"{file}, line {line}", dict(zip(header, values, strict=True)))


def _csv_records(reader: Any) -> Iterator[tuple[int, list[str] | None]]:
    """(first line, values or None for broken quoting) of each record that is not blank."""
    while True:
        line = reader.line_num + 1
        limit = csv.field_size_limit(_LONGEST_FIELD)  # global, so it is restored at once
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error:
            values = None
        finally:
            csv.field_size_limit(limit)
        if values != []:
            yield line, values


SOURCE = CsvSource(suffix="csv", read=_rows)
