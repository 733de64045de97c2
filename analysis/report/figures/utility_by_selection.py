"""Figure: utility by record selection at one epsilon and k, a row for each rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from userdp.analysis.aggregates.seed_groups import Cell, Task
from userdp.analysis.aggregates.series import chosen_among, series
from userdp.analysis.report.figures import axes, style
from userdp.analysis.report.figures.figure import Dots, Plot, draw_dots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEAST_RULES = 3  # selection rules tried at one epsilon that are worth a figure
_CellByLine = dict[tuple[str, str], Cell]  # (strategy, selection) -> its best cell


def plots(task: Task) -> list[Plot]:
    """A figure for each epsilon at which at least three selection rules were tried."""
    levels = sorted({cell.level for cell in task.private if cell.level is not None})
    by_level = {level: _of_one_k([c for c in task.private if c.level == level]) for level in levels}
    return [
        _plot(task, level, cells)
        for level, cells in by_level.items()
        if _rule_count(cells) >= _LEAST_RULES
    ]


def _of_one_k(cells: Sequence[Cell]) -> list[Cell]:
    """The cells of one k, so that k does not decide the order of the rules.

    The k is that with the most rules, the largest of equals.
    """
    by_k: dict[int | str, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: (isinstance(cell.k, int), cell.k), reverse=True):
        by_k.setdefault(cell.k, []).append(cell)
    return max(by_k.values(), key=_rule_count)


def _rule_count(cells: Sequence[Cell]) -> int:
    return len({cell.selection for cell in cells})


def _plot(task: Task, level: float, cells: Sequence[Cell]) -> Plot:
    lines = series(cells, lambda cell: cell.level)
    best_cells = {key: line[0] for key, line in lines.items()}
    rules, metric = _ranked(best_cells), task.metric
    dots = [
        Dots(
            label=strategy,
            look=style.of(strategy, "random"),
            spreads={rule: c.score for (name, rule), c in best_cells.items() if name == strategy},
        )
        for strategy in sorted({strategy for strategy, _ in best_cells})
    ]

    def draw(ax: Axes) -> None:
        draw_dots(ax, dots, rules)
        ax.set_xlabel(f"{metric.label} ({metric.unit})")
        if not metric.lower_is_better:
            axes.percent(ax, "x")

    medians = [f"{s}, {r}: {cell.score.median:.4g}" for (s, r), cell in best_cells.items()]
    return Plot(
        name=task.file(f"by selection epsilon {level:g}"),
        title=task.title(
            f"{metric.label.capitalize()} by selection, epsilon {level:g}, k = {cells[0].k}"
        ),
        note="Mark: median over seeds; bar: their range. Best rule first."
        + chosen_among(cells, lines),
        alt=f"{metric.label.capitalize()} (median). {'; '.join(medians)}.",
        columns=("strategy", "selection", "median", "min", "max", "runs"),
        rows=[
            (s, r, c.score.median, c.score.low, c.score.high, c.score.count)
            for (s, r), c in best_cells.items()
        ],
        draw=draw,
    )


def _ranked(best_cells: _CellByLine) -> list[str]:
    """The selection rules, the one with the best single median first."""
    first = next(iter(best_cells.values()))
    sign = 1 if first.metric.lower_is_better else -1
    best: dict[str, float] = {}
    for (_, rule), cell in best_cells.items():
        best[rule] = min(best.get(rule, float("inf")), sign * cell.score.median)
    return sorted(best, key=best.__getitem__)
