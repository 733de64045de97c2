"""What training remembers: exposure of canaries by mechanism and epsilon, over the runs of a sweep.

    userdp run -m data.canaries=10 track.simulation_only=true privacy.epsilon=1,8 output=SWEEP ...
    python -m analysis.exposure SWEEP

Reads the ``exposure.csv`` that runs with canaries leave (`docs/memorisation.md`).
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from userdp.sim.run_folder import reader as run_folders
from userdp.sim.run_folder.reader import Run

FILE = "exposure.csv"
_COLUMNS = ("round", "canary", "exposure_bits")


def table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row a mechanism and epsilon, the canaries of all its runs together.

    Args:
        runs: complete ones; those without canaries are passed over.

    Returns:
        By strategy and epsilon (its level; None, not private, last). Columns strategy, epsilon,
        runs, canaries (figures, of all runs), bits_before (mean under the base model), bits_mean,
        bits_least, bits_most (after the last round), bits_limit (the most that any could show, of
        the run with the fewest references).

    Raises:
        ConfigurationError: an ``exposure.csv`` lacks a column.
    """
    found: dict[tuple[str, float], list[_Exposures]] = defaultdict(list)
    for run in runs:
        if rows := run.table(FILE, _COLUMNS):
            key = run.strategy, math.inf if run.level is None else run.level
            references = run.config["data.canary_references"]
            found[key].append(_Exposures(rows, math.log2(references + 1)))
    return [_row(*key, alike) for key, alike in sorted(found.items(), key=lambda item: item[0])]


class _Exposures:
    """The bits of one run's canaries, before round 1 and after the last."""

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
    """Print the table of the runs named, as csv."""
    rows = table(run_folders.complete(map(Path, arguments)))
    return run_folders.print_csv(rows, "exposure: name folders of runs with data.canaries.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
