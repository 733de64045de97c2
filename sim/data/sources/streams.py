"""Streams lines of text files and rows of tables through the `datasets` library.

Slow to import: only code that reads rows imports it, inside a function. Memory holds a batch of
rows, never a file.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets as hf
import pyarrow as pa

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data.sources.base import Row, require_columns

BATCH = 1000  # rows
_CHUNK = 1 << 20  # characters of a text file read at once


def lines(file: Path) -> Iterator[str]:
    """The lines with their breaks, without a byte order mark; bytes not UTF-8 read as U+FFFD."""
    options = {"encoding": "utf-8-sig", "encoding_errors": "replace", "keep_linebreaks": True}
    stream = _stream("text", file, chunksize=_CHUNK, **options)
    for batch in stream.iter(batch_size=BATCH):
        yield from batch["text"]


def parquet_rows(file: Path, columns: Mapping[str, str]) -> Iterator[Row]:
    """The rows of a parquet file.

    Raises:
        ConfigurationError: it is not a parquet file, or it lacks a column.
    """
    try:
        yield from table_rows(_stream("parquet", file), str(file), columns)
    except pa.ArrowInvalid as error:
        raise ConfigurationError(f"data.format='parquet': {file} is not a parquet file") from error


def hub_table(path: str, name: str | None, split: str) -> hf.Dataset:
    """A data set of the Hugging Face hub or in a local folder, as a table on disk.

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
    table: hf.Dataset | hf.IterableDataset, path: str, columns: Mapping[str, str]
) -> Iterator[Row]:
    """The rows of a table, with the wanted columns alone.

    Raises:
        ConfigurationError: the table lacks a column.
    """
    names = table.column_names or list(next(iter(table), {}))
    require_columns(columns, names, path)
    number = 0
    for batch in table.select_columns(sorted(set(columns.values()))).iter(batch_size=BATCH):
        for values in zip(*batch.values(), strict=True):
            number += 1
            yield Row(f"{path}, row {number}", dict(zip(batch, values, strict=True)))


def _stream(builder: str, file: Path, **options: Any) -> hf.IterableDataset:
    """The rows of the file without a copy on disk; brackets in its name are no pattern."""
    return hf.load_dataset(
        builder, data_files=[glob.escape(str(file))], split="train", streaming=True, **options
    )
