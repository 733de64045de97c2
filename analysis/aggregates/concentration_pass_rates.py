"""How often the concentration test passed, by data, k and tau: a table over the runs of a sweep.

    userdp run -m strategy=concentrated strategy.tau=0.01,0.1 output=SWEEP ...
    python -m analysis.pass_rates SWEEP

Rates with the test's noise are released figures. Those without, whether W reached min_weight, and
W itself are simulation_only: left open unless track.simulation_only=true was set. Reads files only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
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
    """One run."""

    data: str
    records_per_user: str
    tau: float  # over the clip norm
    epsilon: float | None
    rounds: int  # that were tested
    passed: float  # share of these
    true_passed: float | None  # the same without noise; None where it was not logged
    weight: float | None  # mean of W over the size of the cohort
    before: float
    after: float


def rows(sweep: Path) -> list[Row]:
    """The runs of a sweep that ended, by data, k and tau.

    Raises:
        ValueError: none of them is a run of strategy=concentrated.
    """
    tested = [run for run in reader.complete([sweep]) if "test_pass_rate" in run.summary]
    found = [_row(run) for run in tested]
    if not found:
        raise ValueError(f"{sweep}: holds no complete run of strategy=concentrated.")
    return sorted(found, key=lambda row: (row.data, row.records_per_user, row.tau))


def _row(run: Run) -> Row:
    tested = [row for row in run.rows if "test_passed" in row]
    return Row(
        data=seed_groups.source(run, "data"),
        records_per_user=str(run.named()["k"]),
        tau=_tau(run),
        epsilon=run.summary.get("epsilon"),
        rounds=len(tested),
        passed=run.summary["test_pass_rate"],
        true_passed=_mean(tested, lambda row: row["true_test_passed"]),
        weight=_mean(tested, lambda row: row["concentrated_weight"] / max(1, row["cohort_size"])),
        before=run.summary["heldout_perplexity_before"],
        after=run.summary["heldout_perplexity"],
    )


def _tau(run: Run) -> float:
    tau, clip_norm = run.config["strategy.tau"], run.config["strategy.clip_norm"]
    return 1 / 50 if tau is None else float(tau / clip_norm)


def _mean(tested: Sequence[Mapping[str, Any]], value: Any) -> float | None:
    """Over the rounds, of a figure made of simulation_only ones; None where they are not there."""
    seen = [
        {key.removeprefix(SIMULATION_ONLY): figure for key, figure in row.items()}
        for row in tested
        if f"{SIMULATION_ONLY}true_test_passed" in row
    ]
    return float(sum(map(value, seen)) / len(seen)) if seen else None


def markdown(table: Sequence[Row]) -> str:
    """The rows as one Markdown table."""
    lines = [HEAD, ("---", *["---:"] * (len(HEAD) - 1)), *map(_cells, table)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cells(row: Row) -> Iterator[str]:
    yield from (row.data, row.records_per_user)
    for value in (row.tau, row.epsilon, row.rounds, row.passed, row.true_passed, row.weight):
        yield "" if value is None else f"{value:.3g}"
    yield from (f"{row.before:.1f}", f"{row.after:.1f}")


def main(arguments: Sequence[str]) -> int:
    """Print the table of one sweep's folder."""
    if len(arguments) != 1:
        print("pass_rates: name one folder of a sweep.", file=sys.stderr)
        return 2
    try:
        print(markdown(rows(Path(arguments[0]))), end="")
    except ValueError as error:
        print(f"pass_rates: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
