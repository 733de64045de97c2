"""Rows of parquet files: only the wanted columns are read, a bounded batch of rows at a time."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data.sources.base import Row, require_columns
from userdp.sim.data.sources.files import FileSource

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_BATCH_ROWS, _BATCH_BYTES = 1000, 1 << 25  # of one batch, at most; a single row may be larger


def _rows(file: Path, columns: Mapping[str, str]) -> Iterator[Row]:
    import pyarrow.parquet as pq  # slow to import

    with contextlib.ExitStack() as stack:
        try:
            # Checksums are there in some files only; where they are, a flipped bit is found.
            table = stack.enter_context(pq.ParquetFile(file, page_checksum_verification=True))
            names = table.schema_arrow.names
        except Exception as error:  # arrow raises many types for damaged files
            raise ConfigurationError(
                f"data.format='parquet': {file} is not a parquet file, or a damaged one "
                f"({type(error).__name__})"
            ) from None
        require_columns(columns, names, str(file))
        rows = _values(table, file, sorted(set(columns.values())) or names)
        for number, values in enumerate(rows, 1):
            yield Row(f"{file}, row {number}", values)


def _values(table: pq.ParquetFile, file: Path, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The wanted values of each row.

    Raises:
        ConfigurationError: a row group is damaged, or holds text that is not UTF-8.
    """
    number = 0
    for group in range(table.num_row_groups):
        try:
            for batch in _batches(table, group, list(names)):
                lists = [batch.column(name).to_pylist() for name in names]
                for row in zip(*lists, strict=True):
                    yield dict(zip(names, row, strict=True))
                number += batch.num_rows
        except Exception as error:  # of arrow: many types
            what = "text that is not UTF-8" if isinstance(error, UnicodeError) else "damaged"
            raise ConfigurationError(
                f"data.path: {file}, row group {group}, after row {number}: {what} "
                f"({type(error).__name__}); write the file again."
            ) from None


def _batches(table: pq.ParquetFile, group: int, names: list[str]) -> Iterator[pa.RecordBatch]:
    """The wanted columns of a row group, in batches of bounded size."""
    read = functools.partial(
        table.iter_batches, row_groups=[group], columns=names, use_threads=False
    )
    # Arrow ends the process where it is asked for the size of a column with damaged metadata; where
    # it is asked for values, it raises an error.
    next(read(batch_size=1), None)
    yield from read(batch_size=_batch_rows(table, group, names))


def _batch_rows(table: pq.ParquetFile, group: int, names: Sequence[str]) -> int:
    """Rows of one batch, so that memory is bounded where rows are of similar size.

    Args:
        names: columns of which a value of this group has been read.
    """
    facts, schema = table.metadata.row_group(group), table.schema
    rows: int = facts.num_rows
    places = [i for i in range(len(schema)) if schema.column(i).path.split(".")[0] in names]
    total: int = sum(facts.column(place).total_uncompressed_size for place in places)
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES * rows // max(total, 1)))


SOURCE = FileSource(suffix="parquet", read=_rows)
