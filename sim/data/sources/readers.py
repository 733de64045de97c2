"""Rows of files and of data sets, one at a time, through the `datasets` library.

Lines of jsonl and csv files are read as text and parsed here, so that a broken line costs one
record and can be named; parquet files and data sets of the hub come as tables. Nothing is held in
memory but a batch of rows.
"""

from __future__ import annotations

import csv
import glob
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets as hf
import pyarrow as pa

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data.sources.base import Row, require

_BATCH = 1000  # rows; also how many are looked at to find out which columns there are
_CHUNK = 1 << 20  # characters of a text file read at once
_LONGEST_FIELD = 1 << 24  # characters of a csv field; more than that is a quote that never closes


def rows(file_format: str, file: Path, wanted: Mapping[str, str]) -> Iterator[Row]:
    """The rows of a jsonl, csv or parquet file; ``wanted`` as `userdp.sim.data.sources.registry.open_files` takes it.

    Raises:
        ConfigurationError: while reading; not of this format, or without a column.
    """
    read = {"jsonl": _json_rows, "csv": _csv_rows, "parquet": _parquet_rows}[file_format]
    return read(file, wanted)


def hub_table(path: str, name: str | None, split: str) -> Any:
    """The data set as a table on disk.

    Raises:
        ConfigurationError: no such data set, configuration or split.
    """
    try:
        return hf.load_dataset(path, name, split=split)
    except (OSError, ValueError, hf.exceptions.DatasetsError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigurationError(
            f"data.path={path!r}: data.name={name!r} with data.hub_split={split!r} "
            f"did not load: {reason}"
        ) from error


def table_rows(
    table: hf.Dataset | hf.IterableDataset, path: str, wanted: Mapping[str, str]
) -> Iterator[Row]:
    """The rows of a table; raises ``ConfigurationError`` if it lacks a wanted column."""
    names = table.column_names or list(next(iter(table), {}))
    require(wanted, names, path)
    number = 0
    for batch in table.select_columns(sorted(set(wanted.values()))).iter(batch_size=_BATCH):
        for values in zip(*batch.values(), strict=True):
            number += 1
            yield Row(f"{path}, row {number}", dict(zip(batch, values, strict=True)))


def _stream(builder: str, file: Path, **options: Any) -> hf.IterableDataset:
    """The file's rows without a copy on disk; brackets in its name are no pattern."""
    return hf.load_dataset(
        builder, data_files=[glob.escape(str(file))], split="train", streaming=True, **options
    )


def _lines(file: Path) -> Iterator[str]:
    options = {"encoding": "utf-8-sig", "encoding_errors": "replace", "keep_linebreaks": True}
    stream = _stream("text", file, chunksize=_CHUNK, **options)
    for batch in stream.iter(batch_size=_BATCH):
        yield from batch["text"]


def _json_rows(file: Path, wanted: Mapping[str, str]) -> Iterator[Row]:
    rows = (
        Row(f"{file}, line {number}", _json_object(line))
        for number, line in enumerate(_lines(file), 1)
        if line.strip()
    )
    return _with_columns(rows, wanted, "jsonl", file)


def _json_object(line: str) -> Mapping[str, Any] | None:
    try:
        parsed = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _csv_rows(file: Path, wanted: Mapping[str, str]) -> Iterator[Row]:
    reader = csv.reader(_lines(file), strict=True)
    header = next(_csv_records(reader), (1, None))[1] or []
    require(wanted, header, str(file))
    for line, values in _csv_records(reader):
        whole = values is not None and len(values) == len(header)
        yield Row(
            f"{file}, line {line}", dict(zip(header, values or [], strict=True)) if whole else None
        )


def _csv_records(reader: Any) -> Iterator[tuple[int, list[str] | None]]:
    """(first line, values or None where the quoting is broken) of each record that is not blank."""
    while True:
        line = reader.line_num + 1
        limit = csv.field_size_limit(_LONGEST_FIELD)
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


def _parquet_rows(file: Path, wanted: Mapping[str, str]) -> Iterator[Row]:
    try:
        yield from table_rows(_stream("parquet", file), str(file), wanted)
    except pa.ArrowInvalid as error:
        raise ConfigurationError(f"data.format='parquet': {file} is not a parquet file") from error


def _with_columns(
    rows: Iterator[Row], wanted: Mapping[str, str], file_format: str, file: Path
) -> Iterator[Row]:
    """The same rows, once the first of them are known to hold the wanted columns."""
    head = list(itertools.islice(rows, _BATCH))
    available = dict.fromkeys(name for row in head for name in row.columns or ())
    if head and not available:
        raise ConfigurationError(
            f"data.format={file_format!r}: {file} holds nothing of that format"
        )
    if head:
        require(wanted, available, str(file))
    return itertools.chain(head, rows)
