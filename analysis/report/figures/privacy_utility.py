"""Figures: score against epsilon, and score against records per user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from userdp.analysis.aggregates.seed_groups import Cell, Metric, Task
from userdp.analysis.aggregates.series import Series, chosen_among, joined, named, series
from userdp.analysis.report.figures import axes, style, utility_by_selection
from userdp.analysis.report.figures.figure import (
    Level,
    Line,
    Plot,
    Section,
    columns,
    draw_level,
    draw_line,
    rows,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_CLAIMED = "epsilon claimed (smaller is more private)"
_LEAST_SPAN = 1.2  # smallest ratio of scores that a figure's lines are taken to span


def curves(tasks: Sequence[Task]) -> Section:
    """Score against epsilon, a line for each strategy and selection."""
    plots = [plot for task in tasks if _comparable(task) for plot in _curves(task)]
    return Section(
        name="frontier",
        title="Privacy and utility",
        lead="How good the model is at each epsilon: further left is more private. The distance to "
        "the non-private line is the price of privacy; the base model is where training started.",
        plots=plots,
        absent="this needs two private settings, or one and a non-private run.",
    )


def by_k(tasks: Sequence[Task]) -> Section:
    """Score against records per user, a figure for each epsilon."""
    plots = [plot for task in tasks for plot in _by_k(task)]
    return Section(
        name="records",
        title="Records per user",
        lead="How many records a user contributes, k, trades signal against noise or computation.",
        plots=plots,
        absent="no two runs differ in strategy.records_per_user alone.",
    )


def reference_levels(task: Task) -> list[Level]:
    """The non-private score and the base model's score, where they are known."""
    levels = []
    if task.plain is not None:
        levels.append(Level(label="non-private", spread=task.plain.score))
    if task.before is not None:
        levels.append(Level(label="base model", spread=task.before, dashes="dotted"))
    return levels


def draw_score(ax: Axes, lines: Sequence[Line], levels: Sequence[Level], metric: Metric) -> None:
    """Draw lines and levels on the metric's scale, with its label on the y axis."""
    for line in lines:
        draw_line(ax, line)
    for level in _on_scale(lines, levels, metric):
        draw_level(ax, level)
    ax.set_ylabel(f"{metric.label} ({metric.unit})")
    if metric.lower_is_better:
        axes.logarithmic(ax, "y")
    else:
        axes.percent(ax, "y")


def _on_scale(lines: Sequence[Line], levels: Sequence[Level], metric: Metric) -> list[Level]:
    """The levels; those that would squeeze the lines flat go into the legend only."""
    values = [value for line in lines for _, s in line.points for value in (s.low, s.high)]
    if not values or not metric.lower_is_better:
        return list(levels)
    span = max(_LEAST_SPAN, max(values) / min(values))
    far = [level for level in levels if level.spread.median > max(values) * span**2]
    return [
        replace(
            level, label=f"{level.label}: {level.spread.median:.4g}, off the scale", drawn=False
        )
        if level in far
        else level
        for level in levels
    ]


def seeds_note(lines: Sequence[Line]) -> str:
    """A sentence for the caption: how to read the band, or why there is none."""
    most = max((spread.count for line in lines for _, spread in line.points), default=0)
    if most < 2:
        return "One run for each point, so no band: differences may be chance."
    return f"Line: median over up to {most} seeds; band and bars: their range."


def leak(
    task: Task,
    lines: Sequence[Line],
    levels: Sequence[Level],
    *,
    file: str,
    title: str,
    measure: str,
    column: str,
    alt: str,
    bottom: float | None = None,
) -> Plot:
    """The figure of what an attack measures (simulation_only) against epsilon.

    Args:
        file: start of the file's name.
        title: start of the figure's title.
        measure: label of the y axis.
        column: of the measure in the table behind the figure.
        alt: the measure in a sentence, for readers who do not see the figure.
        bottom: of the y axis; None: as the values ask for.
    """

    def draw(ax: Axes) -> None:
        _draw_against_epsilon(ax, lines, levels)
        ax.set_ylim(bottom=bottom)
        ax.set_ylabel(measure)

    highest = [f"{line.label}: up to {max(s.high for _, s in line.points):.3g}" for line in lines]
    return Plot(
        name=task.file(file),
        title=task.title(f"{title} against epsilon"),
        note=seeds_note(lines),
        alt=f"{alt} {'; '.join(highest)}.",
        columns=columns("epsilon", column),
        rows=rows(*lines, *levels),
        draw=draw,
        simulation_only=True,
    )


def _draw_against_epsilon(ax: Axes, lines: Sequence[Line], levels: Sequence[Level]) -> None:
    for line in lines:
        draw_line(ax, line)
    for level in levels:
        draw_level(ax, level)
    axes.ticks_at(ax, [x for line in lines for x, _ in line.points])
    ax.set_xlabel(_CLAIMED)


def _comparable(task: Task) -> bool:
    points = sum(map(len, series(task.private, lambda cell: cell.level).values()))
    return points > 1 or (points == 1 and task.plain is not None)


def _curves(task: Task) -> list[Plot]:
    """Lines with a single epsilon are left to the figure by selection, where there is one."""
    lines, by_rule = series(task.private, lambda cell: cell.level), utility_by_selection.plots(task)
    if not by_rule:
        return [curve(task, lines)]
    several = joined(lines)
    return [*([curve(task, several)] if several else []), *by_rule]


def curve(task: Task, cells_by_line: Series, file: str = "privacy utility") -> Plot:
    """The figure of the task's metric against epsilon.

    Args:
        cells_by_line: the lines to draw, as `series` over epsilon returns them.
        file: start of the file's name.
    """
    names = named(task, cells_by_line)
    lines = [_line(names[key], key, cells) for key, cells in cells_by_line.items()]
    levels, metric = reference_levels(task), task.metric

    def draw(ax: Axes) -> None:
        draw_score(ax, lines, levels, metric)
        axes.ticks_at(ax, [x for line in lines for x, _ in line.points])
        ax.set_xlabel(_CLAIMED)

    return Plot(
        name=task.file(file),
        title=task.title(f"{metric.label.capitalize()} against epsilon"),
        note=seeds_note(lines) + chosen_among(_cells_of(task, cells_by_line), cells_by_line),
        alt=_alt(lines, levels, metric, "epsilon"),
        columns=columns("epsilon", metric.label),
        rows=rows(*lines, *levels),
        draw=draw,
    )


def _cells_of(task: Task, lines: Series) -> list[Cell]:
    """All private cells that belong to the lines, drawn or not."""
    return [cell for cell in task.private if (cell.strategy, cell.selection) in lines]


def _line(label: str, key: tuple[str, str], cells: Sequence[Cell]) -> Line:
    points = [(float(cell.epsilon or 0), cell.score) for cell in cells]
    return Line(label=label, look=style.of(*key), points=points)


def _by_k(task: Task) -> list[Plot]:
    groups: dict[float | None, list[Cell]] = {}
    for cell in task.cells:
        if isinstance(cell.k, int):
            groups.setdefault(cell.level, []).append(cell)
    ordered = sorted(groups, key=lambda level: (level is None, level or 0))
    return [
        plot for level in ordered if (plot := _at_level(task, level, groups[level])) is not None
    ]


def _at_level(task: Task, level: float | None, cells: Sequence[Cell]) -> Plot | None:
    """The figure by k at one epsilon (None: without privacy), if any line has two values of k."""
    every_line = series(cells, lambda cell: cell.k)
    cells_by_line = joined(every_line)
    if not cells_by_line:
        return None
    names, metric = named(task, cells_by_line), task.metric
    lines = [
        Line(
            label=names[key],
            look=style.of(*key),
            points=[(float(cell.k), cell.score) for cell in line],
        )
        for key, line in cells_by_line.items()
    ]
    levels = [] if level is None else reference_levels(task)

    def draw(ax: Axes) -> None:
        draw_score(ax, lines, levels, metric)
        axes.ticks_at(ax, [x for line in lines for x, _ in line.points])
        ax.set_xlabel("k, records per user")

    at = "non-private" if level is None else f"epsilon {level:g}"
    return Plot(
        name=task.file(f"by k {at}"),
        title=task.title(f"{metric.label.capitalize()} by k, {at}"),
        note=seeds_note(lines) + chosen_among(cells, every_line),
        alt=_alt(lines, levels, metric, "k"),
        columns=columns("records_per_user", metric.label),
        rows=rows(*lines, *levels),
        draw=draw,
    )


def _alt(lines: Sequence[Line], levels: Sequence[Level], metric: Metric, x: str) -> str:
    """The text alternative: every median."""
    parts = [
        f"{line.label}: "
        + ", ".join(f"{s.median:.4g} at {x} {axes.number(at)}" for at, s in line.points)
        for line in lines
    ]
    parts += [f"{level.label}: {level.spread.median:.4g}" for level in levels]
    return f"{metric.label.capitalize()} (median). " + "; ".join(parts) + "."
