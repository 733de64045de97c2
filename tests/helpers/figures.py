"""Reads the numbers of a report's figures, for tests."""

from __future__ import annotations

from typing import Any

from userdp.analysis.report.figures.figure import Plot


def numbers(plot: Plot) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """(series, x) -> median, low, high, runs."""
    return {(name, x): tuple(rest) for name, x, *rest in plot.rows}
