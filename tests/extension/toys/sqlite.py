"""Reads the records of one table of an SQLite database."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from userdp.sim.common import file_hash
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data.sources.base import Opened, Row, Source, SourceRequest, require_columns


class SqliteSource(Source):
    """Rows of the table ``data.options.table`` of a file, in the order of their row ids."""

    option_names = ("table",)

    def check(self, request: SourceRequest) -> None:
        if not Path(request.path or "").is_file():
            raise ConfigurationError(f"data.path={request.path}: there is no such file.")

    def open(self, request: SourceRequest, cache_folder: Path) -> Opened:
        file, table = Path(request.path or ""), request.options.get("table", "records")

        def rows() -> Iterator[Row]:
            with closing(sqlite3.connect(file)) as database:
                try:
                    cursor = database.execute(f'SELECT * FROM "{table}" ORDER BY rowid')
                except sqlite3.Error as error:
                    raise ConfigurationError(f"data.path={file}: {error}.") from None
                names = [column[0] for column in cursor.description]
                require_columns(request.columns, names, str(file))
                for number, values in enumerate(cursor, 1):
                    yield Row(f"{file}, row {number}", dict(zip(names, values, strict=True)))

        return Opened(file_hash.of(file, cache_folder), rows)


SOURCE = SqliteSource()
