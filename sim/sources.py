"""The rows a data source holds, one at a time, each with the place where it stands.

Lines of jsonl and csv files are read as text through the `datasets` library and parsed here, so
that a broken line costs one record and can be named; parquet files and data sets of the hub come
as tables. Nothing is held in memory but a batch of rows. Knows nothing of users, splits or tokens.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import datasets as hf
import pyarrow as pa

from sim import cache
from sim.errors import ConfigurationError

FORMATS = ("jsonl", "csv", "parquet", "hub")
_BATCH = 1000  # rows; also how many are looked at to find out which columns there are
_NAME = re.compile(r"[\w .:/-]{1,40}")
_CHUNK = 1 << 20  # characters of a text file read at once
_LONGEST_FIELD = 1 << 24  # characters of a csv field; more than that is a quote that never closes


class Row(NamedTuple):
    """One row: where it stands (file and line), and its columns, or None where it is broken."""

    place: str
    columns: Mapping[str, Any] | None


@dataclass(frozen=True)
class Opened:
    """A source that exists: what its cache key depends on, and how to read it."""

    fingerprint: str
    rows: Callable[[], Iterator[Row]]


def open_files(file_format: str, path: str, wanted: Mapping[str, str]) -> Opened:
    """Files of one format: a file, a folder (searched for ``*.<format>``) or a glob pattern.

    ``wanted`` maps the configuration's field to the column it names. Bytes that are not UTF-8 read
    as U+FFFD.

    Raises:
        ConfigurationError: no such file, or (while reading) not of this format or without a column.
    """
    files = _files(file_format, path)
    read = {"jsonl": _json_rows, "csv": _csv_rows, "parquet": _parquet_rows}[file_format]

    def rows() -> Iterator[Row]:
        for file in files:
            yield from read(file, wanted)

    return Opened(cache.fingerprint([_digest(file) for file in files]), rows)


def open_hub(path: str, name: str | None, split: str, wanted: Mapping[str, str]) -> Opened:
    """A data set of the Hugging Face hub, downloaded to its own cache; also a local folder of one.

    Raises:
        ConfigurationError: no such data set, configuration or split, or it lacks a column.
    """
    try:
        table = hf.load_dataset(path, name, split=split)
    except (OSError, ValueError, hf.exceptions.DatasetsError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigurationError(
            f"data.path={path!r}: data.name={name!r} with data.hub_split={split!r} "
            f"did not load: {reason}"
        ) from error
    return Opened(table._fingerprint, lambda: _table_rows(table, path, wanted))


def require(wanted: Mapping[str, str], available: Iterable[str], path: str) -> None:
    """Refuse a source without the wanted columns, naming those there are."""
    columns = list(available)
    named = all(_NAME.fullmatch(column) for column in columns)  # else it may be a record: not shown
    mend = "there are: " + ", ".join(columns) if named else "no column names; is data.format right?"
    for field, column in wanted.items():
        if column not in columns:
            raise ConfigurationError(f"{field}={column!r}: no such column in {path}; {mend}")


def _files(file_format: str, path: str) -> list[Path]:
    given = Path(path)
    if given.is_dir():
        found = sorted(file for file in given.rglob(f"*.{file_format}") if file.is_file())
        mend = f"a folder needs files named *.{file_format}"
    elif given.is_file():
        return [given]
    else:
        found = [Path(name) for name in sorted(glob.glob(path, recursive=True))]
        found = [file for file in found if file.is_file()]
        mend = "give an existing file, a folder or a glob pattern"
    if not found:
        raise ConfigurationError(f"data.path={path!r}: no such file; {mend}")
    return found


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "blake2b").hexdigest()


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
        yield from _table_rows(_stream("parquet", file), str(file), wanted)
    except pa.ArrowInvalid as error:
        raise ConfigurationError(f"data.format='parquet': {file} is not a parquet file") from error


def _table_rows(
    table: hf.Dataset | hf.IterableDataset, path: str, wanted: Mapping[str, str]
) -> Iterator[Row]:
    names = table.column_names or list(next(iter(table), {}))
    require(wanted, names, path)
    number = 0
    for batch in table.select_columns(sorted(set(wanted.values()))).iter(batch_size=_BATCH):
        for values in zip(*batch.values(), strict=True):
            number += 1
            yield Row(f"{path}, row {number}", dict(zip(batch, values, strict=True)))


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
