"""A figure as data: its numbers, its words and its drawing; sections of such figures."""

from __future__ import annotations

import csv
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userdp.analysis.aggregates.seed_groups import Spread
from userdp.analysis.report.figures.style import GRID, INK, MUTED, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT, LEGEND_ROW = 400, 262, 16  # points; on a phone a point is a little under a pixel
_DOTS = 200  # an inch, of the PNG
_Y_LABEL = 38  # characters that fit beside the axes
_RC: dict[Any, Any] = {
    "font.size": 11.5,
    "axes.labelsize": 11.5,
    "legend.fontsize": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "userdp",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "legend.columnspacing": 1.0,
}


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One figure."""

    name: str  # of its files
    title: str
    note: str  # under it: how to read it
    alt: str  # what a reader who does not see it should know
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]  # its numbers, as they are stored beside it
    draw: Callable[[Axes], None]
    simulation_only: bool = False


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading of the page with its figures, or why there are none."""

    name: str  # anchor
    title: str
    lead: str  # what the reader can learn here
    plots: Sequence[Plot] = ()
    absent: str = ""


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points joined by a line, with a range at each; a level where there is no x."""

    label: str
    look: Look
    points: Sequence[tuple[float, Spread]]

    def rows(self) -> list[tuple[Any, ...]]:
        return [(self.label, x, s.median, s.low, s.high, s.count) for x, s in self.points]


@dataclass(frozen=True, kw_only=True)
class Level:
    """A horizontal line across the figure."""

    label: str
    spread: Spread
    dashes: object = "dashed"
    colour: str = MUTED
    drawn: bool = True  # else it has its place in the legend alone

    def rows(self) -> list[tuple[Any, ...]]:
        s = self.spread
        return [(self.label, "", s.median, s.low, s.high, s.count)]


def columns(x: str, y: str) -> tuple[str, ...]:
    """Header of the numbers of lines and levels."""
    return ("series", x, f"{y} (median)", f"{y} (min)", f"{y} (max)", "runs")


def rows(*parts: Line | Level) -> list[tuple[Any, ...]]:
    return [row for part in parts for row in part.rows()]


def draw_line(axes: Axes, line: Line) -> None:
    """Median with its range: a band along the line, and a bar at each point."""
    xs = [x for x, _ in line.points]
    low, middle, high = ([getattr(s, n) for _, s in line.points] for n in ("low", "median", "high"))
    colour = line.look.colour
    if any(s.count > 1 for _, s in line.points):
        axes.fill_between(xs, low, high, color=colour, alpha=0.16, linewidth=0)
        axes.vlines(xs, low, high, color=colour, linewidth=1.4, alpha=0.6)
    crowded = len(xs) > 40
    axes.plot(
        xs,
        middle,
        color=colour,
        linestyle=line.look.dashes,
        linewidth=1.6,
        marker=None if crowded else line.look.marker,
        markersize=9 if line.look.marker == "*" else 5.5,
        zorder=3 if line.look.marker == "*" else 2,
        label=line.label,
    )


def draw_level(axes: Axes, level: Level) -> None:
    spread = level.spread
    look = {"color": level.colour, "linestyle": level.dashes, "linewidth": 1.3}
    if not level.drawn:
        axes.plot([], [], label=level.label, **look)  # type: ignore[arg-type]
        return
    axes.axhline(spread.median, label=level.label, **look)  # type: ignore[arg-type]
    if spread.high > spread.low:
        axes.axhspan(spread.low, spread.high, color=level.colour, alpha=0.12, linewidth=0)


@dataclass(frozen=True, kw_only=True)
class Dots:
    """Marks of one series in a figure whose rows are names."""

    label: str
    look: Look
    spreads: Mapping[str, Spread]  # by row


def draw_dots(axes: Axes, series: Sequence[Dots], names: Sequence[str]) -> None:
    """A row for each name from the top, the series' marks one below the other in it."""
    for number, dots in enumerate(series):
        shift = 0.7 * ((number + 0.5) / len(series) - 0.5)
        known = [(i + shift, dots.spreads[n]) for i, n in enumerate(names) if n in dots.spreads]
        places, colour = [place for place, _ in known], dots.look.colour
        low, middle, high = ([getattr(s, n) for _, s in known] for n in ("low", "median", "high"))
        axes.hlines(places, low, high, color=colour, alpha=0.6, linewidth=1.6)
        axes.plot(middle, places, dots.look.marker, color=colour, markersize=6, label=dots.label)
    axes.grid(visible=False, axis="y")
    axes.hlines(
        [i + 0.5 for i in range(len(names) - 1)],
        *(0, 1),
        transform=axes.get_yaxis_transform(),
        color=GRID,
        linewidth=0.7,
    )
    axes.tick_params(axis="y", length=0)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)


def figure(plot: Plot) -> Figure:
    """The figure drawn, its legend below."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_RC):
        drawn = Figure(figsize=(WIDTH / 72, HEIGHT / 72), layout="constrained")
        axes = drawn.add_subplot()
        plot.draw(axes)
        axes.set_ylabel(textwrap.fill(axes.get_ylabel(), _Y_LABEL))
        handles, labels = axes.get_legend_handles_labels()
        if labels:
            across = 2 if max(map(len, labels)) <= 32 else 1
            lines = -(-len(labels) // across)
            drawn.set_size_inches(WIDTH / 72, (HEIGHT + LEGEND_ROW * lines) / 72)
            drawn.legend(handles, labels, loc="outside lower left", ncols=across)
    return drawn


def save(plot: Plot, folder: Path) -> str:
    """Write NAME.svg, NAME.png and NAME.csv; returns the SVG's text."""
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    drawn, path = figure(plot), folder / f"{plot.name}.svg"
    with mpl.rc_context(_RC):
        drawn.savefig(path, metadata={"Date": None, "Title": plot.title}, transparent=True)
        drawn.savefig(path.with_suffix(".png"), dpi=_DOTS, facecolor="white")
    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        marked = [f"simulation_only/{c}" if plot.simulation_only else c for c in plot.columns]
        writer.writerows([marked, *plot.rows])
    return path.read_text()
