"""Streams rows of tables through the `datasets` library.

Slow to import: only code that reads rows imports it, inside a function. Memory holds a batch of
rows, never a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import datasets as hf

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data.sources import saved_tables
from userdp.sim.data.sources.base import Row, require_columns

BATCH = 1000  # rows


def hub_table(path: str, name: str | None, split: str) -> hf.Dataset:
    """A data set of the Hugging Face hub or in a local folder, as a table on disk.

    Args:
        path: a name of the hub, a folder of files, or one that ``save_to_disk`` has written.

    Raises:
        ConfigurationError: no such data set, configuration or split, or it does not load.
    """
    try:
        if (saved := saved_tables.place(path, split)) is not None:
            return hf.Dataset.load_from_disk(saved)
        return hf.load_dataset(path, name, split=split)
    except ConfigurationError:
        raise
    except Exception as error:  # its readers raise many types for damaged files
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigurationError(
            f"data.path={path!r}: data.name={name!r} with data.hub_split={split!r} "
            f"did not load: {reason}"
        ) from error


def table_rows(table: hf.Dataset, path: str, columns: Mapping[str, str]) -> Iterator[Row]:
    """The rows of a table, with the wanted columns alone; with all if there are none.

    Raises:
        ConfigurationError: the table lacks a column, or cannot be read.
    """
    require_columns(columns, table.column_names, path)
    number = 0
    wanted = table.select_columns(sorted(set(columns.values()))) if columns else table
    try:
        for batch in wanted.iter(batch_size=BATCH):
            for values in zip(*batch.values(), strict=True):
                number += 1
                yield Row(f"{path}, row {number}", dict(zip(batch, values, strict=True)))
    except Exception as error:  # of arrow or of a decoder: many types
        raise ConfigurationError(
            f"data.path={path!r}: cannot be read after row {number} ({type(error).__name__}); "
            "load the data set again."
        ) from None
