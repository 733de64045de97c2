"""Where records come from: which files or which data set of the hub, and what tells their contents.

Reads no row: whoever finds the corpus in the cache has no need of `userdp.sim.data.sources.readers`, which is slow to
import. Knows nothing of users, splits or tokens.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from userdp.sim.common import cache, file_hash
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data.sources.base import Row

FORMATS = ("jsonl", "csv", "parquet", "hub")


@dataclass(frozen=True)
class Opened:
    """A source that exists: what its cache key depends on, and how to read it."""

    fingerprint: str
    rows: Callable[[], Iterator[Row]]


def open_files(
    file_format: str, path: str, wanted: Mapping[str, str], cache_folder: Path
) -> Opened:
    """Files of one format: a file, a folder (searched for ``*.<format>``) or a glob pattern.

    ``wanted`` maps the configuration's field to the column it names. Bytes that are not UTF-8 read
    as U+FFFD. What the files hold is hashed, and remembered in ``cache_folder``.

    Raises:
        ConfigurationError: no such file, or (while reading) not of this format or without a column.
    """
    files = _files(file_format, path)

    def rows() -> Iterator[Row]:
        from userdp.sim.data.sources import readers  # slow to import

        for file in files:
            yield from readers.rows(file_format, file, wanted)

    return Opened(cache.fingerprint([file_hash.of(file, cache_folder) for file in files]), rows)


def open_hub(path: str, name: str | None, split: str, wanted: Mapping[str, str]) -> Opened:
    """A data set of the Hugging Face hub, downloaded to its own cache; also a local folder of one.

    Raises:
        ConfigurationError: no such data set, configuration or split, or it lacks a column.
    """
    from userdp.sim.data.sources import readers  # slow to import

    table = readers.hub_table(path, name, split)
    return Opened(table._fingerprint, lambda: readers.table_rows(table, path, wanted))


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
