"""Exposure of planted canaries by strategy and epsilon: a table over the runs of a sweep.

    userdp run -m data.canaries=10 track.simulation_only=true privacy.epsilon=1,8 output=SWEEP ...
    python -m userdp.analysis.aggregates.canary_exposure SWEEP

Reads the ``exposure.csv`` that runs with canaries write (`docs/memorisation.md`).
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from userdp.analysis.aggregates.csv_table import print_csv
from userdp.sim.run_folder import reader
from userdp.sim.run_folder.layout import RunFolder
from userdp.sim.run_folder.reader import Run

FILE = RunFolder(Path()).exposure.name
_COLUMNS = ("round", "canary", "exposure_bits")


def table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row for each strategy and epsilon, over the canaries of all its runs.

    Args:
        runs: complete runs; those without an ``exposure.csv`` are skipped.

    Returns:
        Rows sorted by strategy and epsilon (rounded as `Run.level`; None, not private, last).
        Columns: strategy, epsilon, runs, canaries (number over all runs), bits_before (mean under
        the base model), bits_mean, bits_least, bits_most (after the last round), bits_limit (the
        largest exposure that could be measured, in the run with the fewest reference secrets).

    Raises:
        ConfigurationError: an ``exposure.csv`` lacks a column.
    """
    groups: dict[tuple[str, float], list[_Exposures]] = defaultdict(list)
    for run in runs:
        if rows := run.table(FILE, _COLUMNS):
            key = run.strategy, math.inf if run.level is None else run.level
            references = run.config["data.canary_references"]
            groups[key].append(_Exposures(rows, math.log2(references + 1)))
    return [
        _row(strategy, epsilon, group)
        for (strategy, epsilon), group in sorted(groups.items(), key=lambda item: item[0])
    ]


class _Exposures:
    """Exposure of one run's canaries in bits, before round 1 and after the last round."""

    def __init__(self, rows: Sequence[dict[str, str]], limit: float) -> None:
        last = max(int(row["round"]) for row in rows)
        self.before, self.after = (
            [float(row["exposure_bits"]) for row in rows if int(row["round"]) == number]
            for number in (0, last)
        )
        self.limit = limit


def _row(strategy: str, epsilon: float, runs: Sequence[_Exposures]) -> dict[str, Any]:
    after = [bits for run in runs for bits in run.after]
    return {
        "strategy": strategy,
        "epsilon": epsilon if math.isfinite(epsilon) else None,
        "runs": len(runs),
        "canaries": len(after),
        "bits_before": fmean(bits for run in runs for bits in run.before),
        "bits_mean": fmean(after),
        "bits_least": min(after),
        "bits_most": max(after),
        "bits_limit": min(run.limit for run in runs),
    }


def main(arguments: Sequence[str]) -> int:
    """Print the table of the run folders named, as CSV; returns the exit code."""
    rows = table(reader.complete(map(Path, arguments)))
    return print_csv(rows, "canary_exposure: name folders of runs with data.canaries.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
