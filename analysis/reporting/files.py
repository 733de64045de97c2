"""Tables that a run folder may hold beside its metrics."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from sim.errors import ConfigurationError


def table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file as text; none where there is no file. Other columns are left alone.

    Raises:
        ConfigurationError: a column is missing.
    """
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise ConfigurationError(f"{path}: no column {missing[0]}; delete the file or mend it.")
        return list(reader)
