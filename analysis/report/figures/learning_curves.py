"""Learning curves: the held-out score as rounds go by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from userdp.analysis.aggregates.seed_groups import Cell, Spread, Task
from userdp.analysis.aggregates.series import chosen_among, named, series
from userdp.analysis.report.figures import axes as scales
from userdp.analysis.report.figures import privacy_utility, style
from userdp.analysis.report.figures.figure import Line, Plot, Section, columns, rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 4  # figures of a task


def section(tasks: Sequence[Task]) -> Section:
    """A figure for each epsilon, the non-private curve in all of them."""
    plots = [plot for task in tasks for plot in _plots(task)]
    return Section(
        name="learning",
        title="Learning curves",
        lead="Whether training had settled when it ended, or more rounds would have paid.",
        plots=plots,
        absent=""
        if plots
        else "no run scored held-out users between its first and last round "
        "(eval_every below rounds).",
    )


def over_seeds(runs: Sequence[dict[int, float]]) -> list[tuple[float, Spread]]:
    """(round, spread) at every round that any run has."""
    rounds = sorted({number for run in runs for number in run})
    return [(n, Spread.of([run[n] for run in runs if n in run])) for n in rounds]


def _plots(task: Task) -> list[Plot]:
    groups: dict[float | None, list[Cell]] = {}
    for cell in task.cells:
        groups.setdefault(cell.level, []).append(cell)
    noised = sorted(level for level in groups if level is not None)
    plain = groups.get(None, [])
    if not noised:
        return _known(task, "non-private", plain, [])
    return [
        plot
        for level in _spread_out(noised)
        for plot in _known(task, f"epsilon {level:g}", groups[level], plain)
    ]


def _spread_out(levels: Sequence[float]) -> list[float]:
    """At most so many, the smallest and the largest among them."""
    if len(levels) <= _MOST:
        return list(levels)
    return [levels[round(i * (len(levels) - 1) / (_MOST - 1))] for i in range(_MOST)]


def _known(task: Task, at: str, cells: Sequence[Cell], plain: Sequence[Cell]) -> list[Plot]:
    """The figure, if any of its lines has more than two scores."""
    found = series(cells, lambda cell: cell.level or 0.0)
    names = named(task, found)
    drawn = [_line(names[key], key, line[0]) for key, line in found.items()]
    lines = [line for line in drawn if len(line.points) > 2]
    if not lines:
        return []
    if task.plain is not None and plain:
        lines.append(_line("non-private", ("non_private", ""), task.plain))
    return [_plot(task, at, lines, chosen_among(cells, found))]


def _line(label: str, key: tuple[str, str], cell: Cell) -> Line:
    points = over_seeds([dict(run.series(cell.metric.key)) for run in cell.runs])
    return Line(label=label, look=style.of(*key), points=points)


def _plot(task: Task, at: str, lines: Sequence[Line], chosen: str) -> Plot:
    metric = task.metric

    def draw(axes: Axes) -> None:
        privacy_utility.draw_score(axes, lines, [], metric)
        scales.whole(axes)
        axes.set_xlabel("round")

    ends = [f"{line.label} ends at {line.points[-1][1].median:.4g}" for line in lines]
    return Plot(
        name=task.file(f"learning {at}"),
        title=task.title(f"Learning, {at}"),
        note=privacy_utility.seeds_told(lines) + chosen,
        alt=f"{metric.label.capitalize()} by round: {'; '.join(ends)}.",
        columns=columns("round", metric.label),
        rows=rows(*lines),
        draw=draw,
    )
