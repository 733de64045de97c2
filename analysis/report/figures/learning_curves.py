"""Figure: learning curves, the held-out score by round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from userdp.analysis.aggregates.seed_groups import Cell, Spread, Task
from userdp.analysis.aggregates.series import chosen_among, named, series
from userdp.analysis.report.figures import axes, privacy_utility, style
from userdp.analysis.report.figures.figure import Line, Plot, Section, columns, rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_PLOTS = 4  # of a task


def section(tasks: Sequence[Task]) -> Section:
    """A figure for each epsilon, with the non-private curve in all of them."""
    plots = [plot for task in tasks for plot in _plots(task)]
    return Section(
        name="learning",
        title="Learning curves",
        lead="Whether training had settled when it ended, or more rounds would have paid.",
        plots=plots,
        absent="no run scored held-out users between its first and last round "
        "(eval_every below rounds).",
    )


def over_seeds(runs: Sequence[dict[int, float]]) -> list[tuple[float, Spread]]:
    """(round, spread over runs) at every round that any run has.

    Args:
        runs: for each run, round -> score.
    """
    rounds = sorted({number for run in runs for number in run})
    return [(n, Spread.of([run[n] for run in runs if n in run])) for n in rounds]


def _plots(task: Task) -> list[Plot]:
    groups: dict[float | None, list[Cell]] = {}
    for cell in task.cells:
        groups.setdefault(cell.level, []).append(cell)
    levels = sorted(level for level in groups if level is not None)
    plain = groups.get(None, [])
    if not levels:
        return _plot_if_scored(task, "non-private", plain, [])
    return [
        plot
        for level in _spread_out(levels)
        for plot in _plot_if_scored(task, f"epsilon {level:g}", groups[level], plain)
    ]


def _spread_out(levels: Sequence[float]) -> list[float]:
    """At most ``_MOST_PLOTS`` of the levels, the smallest and the largest among them."""
    if len(levels) <= _MOST_PLOTS:
        return list(levels)
    return [levels[round(i * (len(levels) - 1) / (_MOST_PLOTS - 1))] for i in range(_MOST_PLOTS)]


def _plot_if_scored(
    task: Task, label: str, cells: Sequence[Cell], plain: Sequence[Cell]
) -> list[Plot]:
    """The figure of one epsilon, if any of its lines has more than two scores."""
    cells_by_line = series(cells, lambda cell: cell.level or 0.0)
    names = named(task, cells_by_line)
    every_line = [_line(names[key], key, line[0]) for key, line in cells_by_line.items()]
    lines = [line for line in every_line if len(line.points) > 2]
    if not lines:
        return []
    if task.plain is not None and plain:
        lines.append(_line("non-private", ("non_private", ""), task.plain))
    return [_plot(task, label, lines, chosen_among(cells, cells_by_line))]


def _line(label: str, key: tuple[str, str], cell: Cell) -> Line:
    points = over_seeds([dict(run.series(cell.metric.key)) for run in cell.runs])
    return Line(label=label, look=style.of(*key), points=points)


def _plot(task: Task, label: str, lines: Sequence[Line], chosen: str) -> Plot:
    metric = task.metric

    def draw(ax: Axes) -> None:
        privacy_utility.draw_score(ax, lines, [], metric)
        axes.whole(ax)
        ax.set_xlabel("round")

    ends = [f"{line.label} ends at {line.points[-1][1].median:.4g}" for line in lines]
    return Plot(
        name=task.file(f"learning {label}"),
        title=task.title(f"Learning, {label}"),
        note=privacy_utility.seeds_note(lines) + chosen,
        alt=f"{metric.label.capitalize()} by round: {'; '.join(ends)}.",
        columns=columns("round", metric.label),
        rows=rows(*lines),
        draw=draw,
    )
