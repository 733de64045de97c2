"""Prints the alternatives to a plan as a table, and the price of tuning, below the plan."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from userdp.sim.console import run_summary

WIDTH = 100  # columns
NOTE = (
    "Ranked by noise alone. The signal is not known without data: clipping shrinks the mean of a "
    "user's gradients and a single record's gradient by different amounts, so less noise per unit "
    "of C is no proof of a better model. Tune C for each strategy, or compare on public data "
    "(userdp compare)."
)


def print_advice(advice: Mapping[str, Any]) -> None:
    """Print what `userdp.sim.planning.alternatives.advice` returned; other keys are ignored."""
    if "alternatives" in advice:
        print("\n" + table(advice["alternatives"]))
        print(textwrap.fill(NOTE, WIDTH))
    if "tuning" in advice:
        print("\n" + tuning_text(advice["tuning"]))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of alternatives, at most 100 columns wide, and below it why some are impossible.

    Args:
        rows: of `userdp.sim.planning.alternatives.described`, best first.
    """
    head = ("", "strategy", "k", "cohort", "q", "z", "epsilon", "noise / C", "real gradients")
    cells = [head] + [_cells(rank, row) for rank, row in enumerate(rows, 1)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.rjust, line, widths)) for line in cells]
    reasons = [
        f"not possible: {row['strategy']}, k = {row['records_per_user']}: {row['reason']}"
        for row in rows
        if row["reason"]
    ]
    return "\n".join([*lines, *reasons])


def tuning_text(tuning: Mapping[str, Any]) -> str:
    """What `userdp.sim.planning.alternatives.tuned` returned, in a few lines."""
    composed = run_summary.upper(tuning["composed"]["upper"])
    lines = [
        f"tuning: {tuning['runs']} runs on the same users, whatever is seen of them: "
        f"epsilon <= {composed}"
    ]
    if tuning["repeat_and_select"] is None:
        return "\n".join([*lines, f"  repeat-and-select: not available: {tuning['reason']}"])
    lines += [
        f"  repeat-and-select, {name} number of runs of mean {tuning['runs']}: "
        f"epsilon <= {run_summary.upper(value)}"
        for name, value in tuning["repeat_and_select"].items()
    ]
    rule = "  (only if the number of runs is drawn at random first, and the best alone is released)"
    return "\n".join([*lines, rule])


def _cells(rank: int, row: Mapping[str, Any]) -> tuple[str, ...]:
    name, k, cohort = row["strategy"], str(row["records_per_user"]), f"{row['cohort']:.4g}"
    if row["reason"]:
        return ("-", name, k, cohort, *["-"] * 5)
    full, unfilled = row["real_gradients"], row["real_gradients_without_resampling"]
    real = "unknown" if full is None else f"{full:.4g}"
    if full is not None and row["clipped_unit"] == "record_slot":
        real += f" (unfilled {unfilled:.4g})"
    return (
        str(rank),
        name,
        k,
        cohort,
        f"{row['sampling_rate']:.4g}",
        f"{row['noise_multiplier']:.6g}",
        run_summary.upper(row["epsilon"]["upper"]),
        f"{row['noise_std_on_mean_per_clip_norm']:.4g}",
        real,
    )
