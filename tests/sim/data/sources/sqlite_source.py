"""A data source outside userdp: rows of a table of an SQLite database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from userdp.sim.common import file_hash
from userdp.sim.data.sources.base import Opened, Row, Source, SourceRequest, require_columns


class SqliteSource(Source):
    option_names = ("table",)

    def open(self, request: SourceRequest, cache_folder: Path) -> Opened:
        file, table = Path(request.path or ""), request.options.get("table", "records")

        def rows() -> Iterator[Row]:
            with closing(sqlite3.connect(file)) as database:
                cursor = database.execute(f'SELECT * FROM "{table}" ORDER BY rowid')
                names = [column[0] for column in cursor.description]
                require_columns(request.columns, names, str(file))
                for number, values in enumerate(cursor, 1):
                    yield Row(f"{file}, row {number}", dict(zip(names, values, strict=True)))

        return Opened(file_hash.of(file, cache_folder), rows)


SOURCE = SqliteSource()
