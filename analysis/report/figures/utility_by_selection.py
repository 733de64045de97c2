"""Utility by record selection at one epsilon and k: a row for each rule, a mark a strategy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from userdp.analysis.aggregates.seed_groups import Cell, Task
from userdp.analysis.aggregates.series import chosen_among, series
from userdp.analysis.report.figures import axes as scales
from userdp.analysis.report.figures import style
from userdp.analysis.report.figures.figure import Dots, Plot, draw_dots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MANY = 3  # selections at one epsilon that deserve a figure


def plots(task: Task) -> list[Plot]:
    """A figure for each epsilon at which many selections were tried."""
    levels = sorted({cell.level for cell in task.private if cell.level is not None})
    at = {level: _of_one_k([c for c in task.private if c.level == level]) for level in levels}
    return [_plot(task, level, cells) for level, cells in at.items() if _rules(cells) >= _MANY]


def _of_one_k(cells: Sequence[Cell]) -> list[Cell]:
    """Those of the k with most selections, the largest of equals: k must not decide the order."""
    by_k: dict[int | str, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: (isinstance(cell.k, int), cell.k), reverse=True):
        by_k.setdefault(cell.k, []).append(cell)
    return max(by_k.values(), key=_rules)


def _rules(cells: Sequence[Cell]) -> int:
    return len({cell.selection for cell in cells})


def _plot(task: Task, level: float, cells: Sequence[Cell]) -> Plot:
    lines = series(cells, lambda cell: cell.level)
    found = {key: line[0] for key, line in lines.items()}
    strategies = sorted({strategy for strategy, _ in found})
    rules = _ranked(found)
    metric = task.metric
    dots = [
        Dots(
            label=strategy,
            look=style.of(strategy, "random"),
            spreads={rule: cell.score for (own, rule), cell in found.items() if own == strategy},
        )
        for strategy in strategies
    ]

    def draw(axes: Axes) -> None:
        draw_dots(axes, dots, rules)
        axes.set_xlabel(f"{metric.label} ({metric.unit})")
        if not metric.lower_is_better:
            scales.percent(axes, "x")

    told = [f"{s}, {r}: {cell.score.median:.4g}" for (s, r), cell in found.items()]
    return Plot(
        name=task.file(f"by selection epsilon {level:g}"),
        title=task.title(
            f"{metric.label.capitalize()} by selection, epsilon {level:g}, k = {cells[0].k}"
        ),
        note="Mark: median over seeds; bar: their range. Best rule first."
        + chosen_among(cells, lines),
        alt=f"{metric.label.capitalize()} (median). {'; '.join(told)}.",
        columns=("strategy", "selection", "median", "min", "max", "runs"),
        rows=[
            (s, r, c.score.median, c.score.low, c.score.high, c.score.count)
            for (s, r), c in found.items()
        ],
        draw=draw,
    )


def _ranked(found: dict[tuple[str, str], Cell]) -> list[str]:
    """Selections, that with the best single median first."""
    first = next(iter(found.values()))
    sign = 1 if first.metric.lower_is_better else -1
    best: dict[str, float] = {}
    for (_, rule), cell in found.items():
        best[rule] = min(best.get(rule, float("inf")), sign * cell.score.median)
    return sorted(best, key=best.__getitem__)
