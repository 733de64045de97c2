"""Axes that are easy to read: plain numbers on logarithmic scales, percentages, whole rounds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DENSE = (1, 2, 3, 4, 5, 6, 8)  # ticks within a decade, by the range that an axis shows
_SPARSE = (1, 2, 5)
_LEAST_RATIO = 1.02  # an axis shows this much to either side of a single value
_MOST_TICKS = 8


def logarithmic(ax: Axes, which: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, with plain numbers at round values; denser for small ranges."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = ax.get_xlim() if which == "x" else ax.get_ylim()
    if low <= 0:
        low = 0.9 * min(filter(lambda value: value > 0, _drawn_values(ax, which)), default=1.0)
    if high < _LEAST_RATIO * low:  # one value, or values that agree
        low, high = low / _LEAST_RATIO, high * _LEAST_RATIO
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    (ax.set_xlim if which == "x" else ax.set_ylim)(low, high)
    axis = ax.xaxis if which == "x" else ax.yaxis
    ratio = high / low
    if ratio < 4:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    else:
        axis.set_major_locator(
            LogLocator(subs=_DENSE if ratio < 8 else _SPARSE if ratio < 300 else (1,))
        )
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def _drawn_values(ax: Axes, which: Literal["x", "y"]) -> Iterable[float]:
    for line in ax.get_lines():
        yield from np.asarray(line.get_xdata() if which == "x" else line.get_ydata(), float)


def ticks_at(ax: Axes, values: Iterable[float]) -> None:
    """Make the x axis logarithmic, with ticks at the given values as far as they have room."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    logarithmic(ax, "x")
    ordered = sorted(set(values))
    ticks = ordered[:1]
    for value in ordered[1:]:
        if value > 1.12 * ticks[-1]:
            ticks.append(value)
    if 0 < len(ticks) <= _MOST_TICKS:
        ax.xaxis.set_major_locator(FixedLocator(ticks))
        ax.xaxis.set_minor_locator(NullLocator())
        # Two digits, because runs calibrated to epsilon 3 claim 2.99.
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: number(float(f"{x:.2g}"))))
        if len(ticks) == 1:
            ax.set_xlim(ticks[0] / 2, ticks[0] * 2)


def percent(ax: Axes, which: Literal["x", "y"]) -> None:
    """Label an axis of shares as percentages."""
    from matplotlib.ticker import FuncFormatter

    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))


def whole(ax: Axes) -> None:
    """Put ticks of the x axis at whole numbers only, as for rounds."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(7, integer=True))


def number(value: float) -> str:
    """A number in four digits, thousands separated.

    >>> number(0.123456), number(12345.6)
    ('0.1235', '12,346')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
