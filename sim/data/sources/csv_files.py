"""Rows of csv files with a header; a row with broken quoting costs its lines and can be named."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data.sources import text_lines
from userdp.sim.data.sources.base import Row, SourceRequest, require_columns
from userdp.sim.data.sources.files import FileSource


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


class _Record(NamedTuple):
    first: int  # number of its first line
    last: int
    values: list[str] | None  # None for broken quoting


def _rows(file: Path, columns: Mapping[str, str]) -> Iterator[Row]:
    records = _csv_records(file)
    if (head := next(records, None)) is None:
        return  # an empty file, as an empty partition of a folder
    header = head.values or []
    require_columns(columns, header, str(file))
    for record in records:
        if record.values is not None and len(record.values) == len(header):
            values = dict(zip(header, record.values, strict=True))
            yield Row(f"{file}, line {record.first}", values)
        else:
            lines = range(record.first, record.last + 1) if record.values is None else [record[0]]
            yield from (Row(f"{file}, line {line}", None) for line in lines)


def _csv_records(file: Path) -> Iterator[_Record]:
    """The records that are not blank.

    Raises:
        ConfigurationError: a quote opens and does not close, so that it is not known how many rows
            it took in.
    """
    lines = _Lines(text_lines.lines(file))
    reader = csv.reader(lines, strict=True)
    while True:
        first = reader.line_num + 1
        limit = csv.field_size_limit(text_lines.LONGEST)  # global, so it is restored at once
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error:
            if lines.characters > text_lines.LONGEST or (lines.ended and reader.line_num > first):
                raise ConfigurationError(
                    f"data.path: {file}, line {first}: a quote opens in this row and does not "
                    "close; mend the row."
                ) from None
            values = None
        finally:
            csv.field_size_limit(limit)
        lines.characters = 0
        if values != []:
            yield _Record(first, reader.line_num, values)


class _Lines(Iterator[str]):
    """Lines, whether they have ended, and the characters that were read since last asked."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines, self.ended, self.characters = lines, False, 0

    def __next__(self) -> str:
        for line in self._lines:
            self.characters += len(line)
            return line
        self.ended = True
        raise StopIteration


SOURCE = CsvSource(suffix="csv", read=_rows, is_text=True)
