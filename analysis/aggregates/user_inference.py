"""Rates of the user inference attack by strategy and epsilon: a table over the runs of a sweep.

    userdp attack SWEEP
    python -m userdp.analysis.aggregates.user_inference SWEEP

Reads the ``user_inference.csv`` that `userdp attack` writes (`docs/memorisation.md`).
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from userdp.analysis.aggregates.csv_table import print_csv
from userdp.sim.run_folder import reader
from userdp.sim.run_folder.layout import RunFolder
from userdp.sim.run_folder.reader import SIMULATION_ONLY, Run

FILE = RunFolder(Path()).user_inference.name
RATES = ("auc", "tpr_at_1", "tpr_at_10")
_COLUMNS = ("group", *RATES)


def table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row for each strategy and epsilon: means over its runs, of the rates over all users.

    Args:
        runs: complete runs; those that were not attacked are skipped.

    Returns:
        Rows sorted by strategy and epsilon (rounded as `Run.level`; None, not private, last).
        Columns: strategy, epsilon, runs, auc, tpr_at_1 and tpr_at_10.

    Raises:
        ConfigurationError: a ``user_inference.csv`` lacks a column.
    """
    groups: dict[tuple[str, float], list[Mapping[str, float]]] = defaultdict(list)
    for run in runs:
        if (measured := of(run)) is not None:
            level = math.inf if run.level is None else run.level
            groups[run.strategy, level].append(measured)
    return [
        {
            "strategy": strategy,
            "epsilon": epsilon if math.isfinite(epsilon) else None,
            "runs": len(group),
            **{rate: fmean(measured[rate] for measured in group) for rate in RATES},
        }
        for (strategy, epsilon), group in sorted(groups.items(), key=lambda item: item[0])
    ]


def of(run: Run) -> dict[str, float] | None:
    """The rates over all users of a run, by name; None where it was not attacked.

    Raises:
        ConfigurationError: its table lacks a column.
    """
    columns = [f"{SIMULATION_ONLY}{column}" for column in _COLUMNS]
    rows = run.table(FILE, columns)
    found = next((row for row in rows if row[columns[0]] == "all"), None)
    if found is None:
        return None
    return {rate: float(found[f"{SIMULATION_ONLY}{rate}"]) for rate in RATES}


def main(arguments: Sequence[str]) -> int:
    """Print the table of the run folders named, as CSV; returns the exit code."""
    rows = table(reader.complete(map(Path, arguments)))
    return print_csv(rows, "user_inference: name folders of runs that userdp attack has attacked.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
