"""One row of a data source, with the place where it stands, and the columns it must have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from userdp.sim.common.errors import ConfigurationError

_NAME = re.compile(r"[\w .:/-]{1,40}")


class Row(NamedTuple):
    """One row: where it stands (file and line), and its columns, or None where it is broken."""

    place: str
    columns: Mapping[str, Any] | None


def require(wanted: Mapping[str, str], available: Iterable[str], path: str) -> None:
    """Refuse a source without the wanted columns, naming those there are."""
    columns = list(available)
    named = all(_NAME.fullmatch(column) for column in columns)  # else it may be a record: not shown
    mend = "there are: " + ", ".join(columns) if named else "no column names; is data.format right?"
    for field, column in wanted.items():
        if column not in columns:
            raise ConfigurationError(f"{field}={column!r}: no such column in {path}; {mend}")
