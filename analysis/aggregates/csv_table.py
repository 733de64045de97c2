"""Prints rows as CSV on standard output: the end of the commands that print one table."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from userdp.sim.common import plain_text


def print_csv(rows: Sequence[Mapping[str, Any]], missing: str) -> int:
    """Print a table as CSV, or one line on standard error where it has no rows.

    Args:
        rows: all with the keys of the first, which become the header.
        missing: the line to print where there are no rows.

    Returns:
        The command's exit code: 0, or 2 without rows.
    """
    if not rows:
        print(missing, file=sys.stderr)
        return 2
    writer = csv.DictWriter(sys.stdout, list(rows[0]))
    writer.writeheader()
    writer.writerows(map(plain_text.row, rows))
    return 0
