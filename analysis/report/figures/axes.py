"""Axes that a person reads: plain numbers on logarithmic scales, percentages, whole rounds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STEPS = (1, 2, 3, 4, 5, 6, 8)
_FEW = (1, 2, 5)
_LEAST = 1.02  # ratio that an axis shows to either side of a single value


def logarithmic(axes: Axes, which: Literal["x", "y"]) -> None:
    """Logarithmic, with plain numbers at round values, closer together where the range is small."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    if low <= 0:
        low = 0.9 * min(filter(lambda v: v > 0, _data(axes, which)), default=1.0)
    if high < _LEAST * low:  # one value, or values that agree
        low, high = low / _LEAST, high * _LEAST
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    axis = axes.xaxis if which == "x" else axes.yaxis
    ratio = high / low
    if ratio < 4:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    else:
        axis.set_major_locator(
            LogLocator(subs=_STEPS if ratio < 8 else _FEW if ratio < 300 else (1,))
        )
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def _data(axes: Axes, which: str) -> Iterable[float]:
    for line in axes.get_lines():
        yield from (line.get_xdata() if which == "x" else line.get_ydata())  # type: ignore[misc]


def at(axes: Axes, values: Iterable[float]) -> None:
    """A logarithmic x axis with ticks at the values there are, as far as they have room."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    logarithmic(axes, "x")
    known = sorted(set(values))
    apart = [known[0]] if known else []
    for value in known[1:]:
        if value > 1.12 * apart[-1]:
            apart.append(value)
    if 0 < len(apart) <= 8:
        axes.xaxis.set_major_locator(FixedLocator(apart))
        axes.xaxis.set_minor_locator(NullLocator())
        # Claims calibrated to 3 end at 2.99.
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: number(float(f"{x:.2g}"))))
        if len(apart) == 1:
            axes.set_xlim(apart[0] / 2, apart[0] * 2)


def percent(axes: Axes, which: Literal["x", "y"]) -> None:
    from matplotlib.ticker import FuncFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))


def whole(axes: Axes) -> None:
    """Rounds are whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))


def number(value: float) -> str:
    """Few digits, thousands set apart."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
