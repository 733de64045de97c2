"""Privacy against utility, and utility against k: what a sweep is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from userdp.analysis.aggregates.seed_groups import Cell, Metric, Task
from userdp.analysis.aggregates.series import Series, chosen_among, joined, named, series
from userdp.analysis.report.figures import axes as scales
from userdp.analysis.report.figures import style, utility_by_selection
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


_LEAST_SPAN = 1.2  # ratio of scores that a figure shows at least


def curves(tasks: Sequence[Task]) -> Section:
    """Score against epsilon, a line for each strategy and selection."""
    plots = [plot for task in tasks if _comparable(task) for plot in _curves(task)]
    return Section(
        name="frontier",
        title="Privacy and utility",
        lead="How good the model is at each epsilon: further left is more private. The distance to "
        "the non-private line is the price of privacy; the base model is where training started.",
        plots=plots,
        absent="" if plots else "this needs two private settings, or one and a non-private run.",
    )


def by_k(tasks: Sequence[Task]) -> Section:
    """Score against records per user, a figure for each epsilon."""
    plots = [plot for task in tasks for plot in _by_k(task)]
    return Section(
        name="records",
        title="Records per user",
        lead="How many records a user contributes, k, trades signal against noise or computation.",
        plots=plots,
        absent="" if plots else "no two runs differ in strategy.records_per_user alone.",
    )


def levels(task: Task) -> list[Level]:
    """The non-private score and the base model's."""
    found = []
    if task.plain is not None:
        found.append(Level(label="non-private", spread=task.plain.score))
    if task.before is not None:
        found.append(Level(label="base model", spread=task.before, dashes="dotted"))
    return found


def draw_score(axes: Axes, lines: Sequence[Line], across: Sequence[Level], metric: Metric) -> None:
    """Lines and levels on the metric's own scale."""
    for line in lines:
        draw_line(axes, line)
    for level in _within(lines, across, metric):
        draw_level(axes, level)
    axes.set_ylabel(f"{metric.label} ({metric.unit})")
    if metric.lower_is_better:
        scales.logarithmic(axes, "y")
    else:
        scales.percent(axes, "y")


def _within(lines: Sequence[Line], across: Sequence[Level], metric: Metric) -> list[Level]:
    """Levels that would squeeze the lines flat are named in the legend, and not drawn."""
    values = [value for line in lines for _, s in line.points for value in (s.low, s.high)]
    if not values or not metric.lower_is_better:
        return list(across)
    span = max(_LEAST_SPAN, max(values) / min(values))
    far = [level for level in across if level.spread.median > max(values) * span**2]
    return [
        replace(
            level, label=f"{level.label}: {level.spread.median:.4g}, off the scale", drawn=False
        )
        if level in far
        else level
        for level in across
    ]


def seeds_told(lines: Sequence[Line]) -> str:
    """How to read the band, or why there is none."""
    most = max((spread.count for line in lines for _, spread in line.points), default=0)
    if most < 2:
        return "One run for each point, so no band: differences may be chance."
    return f"Line: median over up to {most} seeds; band and bars: their range."


def _comparable(task: Task) -> bool:
    points = sum(map(len, series(task.private, lambda cell: cell.level).values()))
    return points > 1 or (points == 1 and task.plain is not None)


def _curves(task: Task) -> list[Plot]:
    """Lines with a single epsilon are left to the figure by selection, where there is one."""
    found, ranked = series(task.private, lambda cell: cell.level), utility_by_selection.plots(task)
    if not ranked:
        return [curve(task, found)]
    several = joined(found)
    return [*([curve(task, several)] if several else []), *ranked]


def curve(task: Task, found: Series, file: str = "privacy utility") -> Plot:
    """The lines of `series` against epsilon."""
    names = named(task, found)
    lines = [_line(names[key], key, cells) for key, cells in found.items()]
    across, metric = levels(task), task.metric

    def draw(axes: Axes) -> None:
        draw_score(axes, lines, across, metric)
        scales.at(axes, [x for line in lines for x, _ in line.points])
        axes.set_xlabel("epsilon claimed (smaller is more private)")

    return Plot(
        name=task.file(file),
        title=task.title(f"{metric.label.capitalize()} against epsilon"),
        note=seeds_told(lines) + chosen_among(_in(task, found), found),
        alt=_alt(lines, across, metric, "epsilon"),
        columns=columns("epsilon", metric.label),
        rows=rows(*lines, *across),
        draw=draw,
    )


def _in(task: Task, found: Series) -> list[Cell]:
    """All cells of the lines, shown or not."""
    return [cell for cell in task.private if (cell.strategy, cell.selection) in found]


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
    every = series(cells, lambda cell: cell.k)
    found = joined(every)
    if not found:
        return None
    names, metric = named(task, found), task.metric
    lines = [
        Line(
            label=names[key],
            look=style.of(*key),
            points=[(float(cell.k), cell.score) for cell in line],
        )
        for key, line in found.items()
    ]
    across = [] if level is None else levels(task)

    def draw(axes: Axes) -> None:
        draw_score(axes, lines, across, metric)
        scales.at(axes, [x for line in lines for x, _ in line.points])
        axes.set_xlabel("k, records per user")

    at = "non-private" if level is None else f"epsilon {level:g}"
    return Plot(
        name=task.file(f"by k {at}"),
        title=task.title(f"{metric.label.capitalize()} by k, {at}"),
        note=seeds_told(lines) + chosen_among(cells, every),
        alt=_alt(lines, across, metric, "k"),
        columns=columns("records_per_user", metric.label),
        rows=rows(*lines, *across),
        draw=draw,
    )


def _alt(lines: Sequence[Line], across: Sequence[Level], metric: Metric, x: str) -> str:
    told = [
        f"{line.label}: "
        + ", ".join(f"{s.median:.4g} at {x} {scales.number(at)}" for at, s in line.points)
        for line in lines
    ]
    told += [f"{level.label}: {level.spread.median:.4g}" for level in across]
    return f"{metric.label.capitalize()} (median). " + "; ".join(told) + "."
