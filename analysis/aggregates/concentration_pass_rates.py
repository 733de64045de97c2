"""Pass rates of the concentration test by data, k and tau: a table over the runs of a sweep.

    userdp run -m strategy=concentrated strategy.tau=0.01,0.1 output=SWEEP ...
    python -m userdp.analysis.aggregates.concentration_pass_rates SWEEP

Pass rates of the noised test are released figures. Pass rates without noise (whether the weight W
reached min_weight) and W itself are simulation_only: their columns are empty for runs without
track.simulation_only=true.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from userdp.analysis.aggregates import seed_groups
from userdp.sim.run_folder import reader
from userdp.sim.run_folder.reader import SIMULATION_ONLY, Run

HEAD = (
    *("data", "k", "tau / C", "epsilon", "rounds", "passed", "passed without noise"),
    *("W / cohort", "held-out perplexity, before", "after"),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """The figures of one run."""

    data: str
    records_per_user: str
    tau: float  # divided by the clip norm C
    epsilon: float | None
    rounds: int  # with a test
    passed: float  # share of the tested rounds
    true_passed: float | None  # the same without noise; None where it was not logged
    weight: float | None  # mean over rounds of W / cohort size; None where it was not logged
    before: float  # held-out perplexity of the base model
    after: float  # held-out perplexity at the end


def rows(sweep: Path) -> list[Row]:
    """One row for each complete run of strategy=concentrated, sorted by data, k and tau.

    Args:
        sweep: a folder with run folders at any depth.

    Raises:
        ValueError: the folder holds no complete run of strategy=concentrated.
    """
    runs = [run for run in reader.complete([sweep]) if "test_pass_rate" in run.summary]
    if not runs:
        raise ValueError(f"{sweep}: holds no complete run of strategy=concentrated.")
    return sorted(map(_row, runs), key=lambda row: (row.data, row.records_per_user, row.tau))


def _row(run: Run) -> Row:
    tested = [row for row in run.rows if "test_passed" in row]
    return Row(
        data=seed_groups.source(run, "data"),
        records_per_user=str(run.named()["k"]),
        tau=_relative_tau(run),
        epsilon=run.summary.get("epsilon"),
        rounds=len(tested),
        passed=run.summary["test_pass_rate"],
        true_passed=_mean(tested, lambda row: row["true_test_passed"]),
        weight=_mean(tested, lambda row: row["concentrated_weight"] / max(1, row["cohort_size"])),
        before=run.summary["heldout_perplexity_before"],
        after=run.summary["heldout_perplexity"],
    )


def _relative_tau(run: Run) -> float:
    """Tau over the clip norm; where tau is not set, the mechanism's default of C / 50."""
    tau, clip_norm = run.config["strategy.tau"], run.config["strategy.clip_norm"]
    return 1 / 50 if tau is None else float(tau / clip_norm)


def _mean(
    rounds: Sequence[Mapping[str, Any]], figure: Callable[[Mapping[str, Any]], float]
) -> float | None:
    """Mean over rounds of a figure computed from simulation_only metrics; None without them."""
    logged = [
        {key.removeprefix(SIMULATION_ONLY): value for key, value in row.items()}
        for row in rounds
        if f"{SIMULATION_ONLY}true_test_passed" in row
    ]
    return float(sum(map(figure, logged)) / len(logged)) if logged else None


def markdown(table: Sequence[Row]) -> str:
    """The rows as one Markdown table."""
    lines = [HEAD, ("---", *["---:"] * (len(HEAD) - 1)), *map(_table_cells, table)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _table_cells(row: Row) -> Iterator[str]:
    yield from (row.data, row.records_per_user)
    for value in (row.tau, row.epsilon, row.rounds, row.passed, row.true_passed, row.weight):
        yield "" if value is None else f"{value:.3g}"
    yield from (f"{row.before:.1f}", f"{row.after:.1f}")


def main(arguments: Sequence[str]) -> int:
    """Print the Markdown table of one sweep's folder; returns the exit code."""
    if len(arguments) != 1:
        print("concentration_pass_rates: name one folder of a sweep.", file=sys.stderr)
        return 2
    try:
        print(markdown(rows(Path(arguments[0]))), end="")
    except ValueError as error:
        print(f"concentration_pass_rates: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
