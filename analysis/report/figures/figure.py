"""A figure as data (its numbers, texts and drawing function), and how it is drawn and saved."""

from __future__ import annotations

import csv
import io
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userdp.analysis.aggregates.seed_groups import Spread
from userdp.analysis.report.figures.style import GRID, INK, MUTED, Look
from userdp.sim.common import durable_file, plain_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT, LEGEND_ROW = 400, 262, 16  # points; on a phone a point is a little under a pixel
_DOTS_PER_INCH = 200  # of the PNG
_Y_LABEL = 38  # characters that fit beside the axes
_CROWDED = 40  # points of a line that are drawn without markers
_RC: dict[Any, Any] = {
    "font.size": 11.5,
    "axes.labelsize": 11.5,
    "legend.fontsize": 10,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name with $ is text, and no formula that may be wrong
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
    note: str  # the caption: how to read it
    alt: str  # the text alternative, for readers who do not see the figure
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]  # its numbers, stored as CSV beside it
    draw: Callable[[Axes], None]
    simulation_only: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-]+", self.name):  # it becomes ids, links and paths
            raise ValueError(f"{self.name!r}: expected letters, digits, - and _ alone.")


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of the page."""

    name: str  # anchor
    title: str
    lead: str  # what the reader can learn from it
    plots: Sequence[Plot]
    absent: str  # why there are no figures, shown where there are none


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points (x, spread over seeds) joined by a line."""

    label: str
    look: Look
    points: Sequence[tuple[float, Spread]]

    def rows(self) -> list[tuple[Any, ...]]:
        """Its numbers, in the order of `columns`."""
        return [(self.label, x, s.median, s.low, s.high, s.count) for x, s in self.points]


@dataclass(frozen=True, kw_only=True)
class Level:
    """A horizontal line across the figure."""

    label: str
    spread: Spread
    dashes: Any = "dashed"  # a line style of matplotlib
    colour: str = MUTED
    drawn: bool = True  # else it appears in the legend only

    def rows(self) -> list[tuple[Any, ...]]:
        """Its numbers, in the order of `columns`, without an x."""
        s = self.spread
        return [(self.label, "", s.median, s.low, s.high, s.count)]


def columns(x: str, y: str) -> tuple[str, ...]:
    """The CSV header of lines and levels."""
    return ("series", x, f"{y} (median)", f"{y} (min)", f"{y} (max)", "runs")


def rows(*parts: Line | Level) -> list[tuple[Any, ...]]:
    """The numbers of all lines and levels, in the order of `columns`."""
    return [row for part in parts for row in part.rows()]


def draw_line(ax: Axes, line: Line) -> None:
    """Draw the medians, and their ranges as a band along the line and a bar at each point."""
    xs = [x for x, _ in line.points]
    low, middle, high = ([getattr(s, n) for _, s in line.points] for n in ("low", "median", "high"))
    colour = line.look.colour
    if any(s.count > 1 for _, s in line.points):
        ax.fill_between(xs, low, high, color=colour, alpha=0.16, linewidth=0)
        ax.vlines(xs, low, high, color=colour, linewidth=1.4, alpha=0.6)
    starred = line.look.marker == "*"
    ax.plot(
        xs,
        middle,
        color=colour,
        linestyle=line.look.dashes,
        linewidth=1.6,
        marker=None if len(xs) > _CROWDED else line.look.marker,
        markersize=9 if starred else 5.5,
        zorder=3 if starred else 2,
        label=line.label,
    )


def draw_level(ax: Axes, level: Level) -> None:
    """Draw the median across the figure with a band for its range, or its legend entry alone."""
    spread = level.spread
    line_style: dict[str, Any] = {
        "color": level.colour,
        "linestyle": level.dashes,
        "linewidth": 1.3,
    }
    if not level.drawn:
        ax.plot([], [], label=level.label, **line_style)
        return
    ax.axhline(spread.median, label=level.label, **line_style)
    if spread.high > spread.low:
        ax.axhspan(spread.low, spread.high, color=level.colour, alpha=0.12, linewidth=0)


@dataclass(frozen=True, kw_only=True)
class Dots:
    """Marks of one series in a figure whose rows have names."""

    label: str
    look: Look
    spreads: Mapping[str, Spread]  # name of a row -> spread

    def rows(self) -> list[tuple[Any, ...]]:
        """Its numbers: label, row, median, low, high, count."""
        return [
            (self.label, row, s.median, s.low, s.high, s.count) for row, s in self.spreads.items()
        ]


def draw_dots(ax: Axes, series: Sequence[Dots], names: Sequence[str]) -> None:
    """Draw one row for each name from the top, with the marks of all series below one another."""
    for number, dots in enumerate(series):
        shift = 0.7 * ((number + 0.5) / len(series) - 0.5)
        known = [(i + shift, dots.spreads[n]) for i, n in enumerate(names) if n in dots.spreads]
        heights, colour = [height for height, _ in known], dots.look.colour
        low, middle, high = ([getattr(s, n) for _, s in known] for n in ("low", "median", "high"))
        ax.hlines(heights, low, high, color=colour, alpha=0.6, linewidth=1.6)
        ax.plot(middle, heights, dots.look.marker, color=colour, markersize=6, label=dots.label)
    ax.grid(visible=False, axis="y")
    ax.hlines(
        [i + 0.5 for i in range(len(names) - 1)],
        *(0, 1),
        transform=ax.get_yaxis_transform(),
        color=GRID,
        linewidth=0.7,
    )
    ax.tick_params(axis="y", length=0)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)


def figure(plot: Plot) -> Figure:
    """Draw the figure, with its legend below the axes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_RC):
        drawn = Figure(figsize=(WIDTH / 72, HEIGHT / 72), layout="constrained")
        ax = drawn.add_subplot()
        plot.draw(ax)
        ax.set_ylabel(textwrap.fill(ax.get_ylabel(), _Y_LABEL))
        handles, labels = ax.get_legend_handles_labels()
        if labels:
            across = 2 if max(map(len, labels)) <= 32 else 1
            lines = -(-len(labels) // across)
            drawn.set_size_inches(WIDTH / 72, (HEIGHT + LEGEND_ROW * lines) / 72)
            drawn.legend(handles, labels, loc="outside lower left", ncols=across)
    return drawn


def save(plot: Plot, folder: Path) -> str:
    """Write NAME.svg, NAME.png and NAME.csv into the folder; returns the text of the SVG."""
    import matplotlib as mpl

    drawn, path = figure(plot), folder / f"{plot.name}.svg"
    svg, png = io.BytesIO(), io.BytesIO()
    about = {"Date": None, "Title": plot.title}
    with mpl.rc_context(_RC):
        drawn.savefig(svg, format="svg", metadata=about, transparent=True)
        drawn.savefig(png, format="png", dpi=_DOTS_PER_INCH, facecolor="white")
    durable_file.replace(path, svg.getvalue())
    durable_file.replace(path.with_suffix(".png"), png.getvalue())
    with durable_file.text(path.with_suffix(".csv")) as file:
        writer = csv.writer(file, lineterminator="\n")
        header = [f"simulation_only/{c}" if plot.simulation_only else c for c in plot.columns]
        writer.writerows(map(plain_text.row, [header, *plot.rows]))
    return svg.getvalue().decode()
