"""Series of a figure: the cells of one strategy and selection, joined by a line.

Where other settings vary too, a line shows the setting with the best median at each point, and the
figure's caption says that this setting was chosen by held-out score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from userdp.analysis.aggregates.seed_groups import Cell, Task, best

Series = dict[tuple[str, str], list[Cell]]  # (strategy, selection) -> points of the line


def series(cells: Iterable[Cell], x: Callable[[Cell], Any]) -> Series:
    """The best cell at every x of each strategy and selection, sorted by x.

    Args:
        cells: of one task, so that their scores compare.
        x: the figure's horizontal coordinate of a cell.
    """
    lines: dict[tuple[str, str], dict[Any, Cell]] = {}
    for cell in cells:
        line = lines.setdefault((cell.strategy, cell.selection), {})
        if (chosen := best(filter(None, (line.get(x(cell)), cell)), cell.metric)) is not None:
            line[x(cell)] = chosen
    return {key: [line[at] for at in sorted(line)] for key, line in sorted(lines.items())}


def joined(lines: Series) -> Series:
    """The lines with more than one point."""
    return {key: line for key, line in lines.items() if len(line) > 1}


def fullest(lines: Series) -> Series:
    """The lines with more than one point, beside which single ones would crowd; else all lines."""
    return joined(lines) or lines


def named(task: Task, lines: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """The label of each line; it names the selection where the task has several."""
    several = len({cell.selection for cell in task.cells}) > 1
    return {key: f"{key[0]}, {key[1]}" if several else key[0] for key in lines}


def chosen_among(cells: Sequence[Cell], lines: Series) -> str:
    """A sentence for the caption where lines show the best of several settings, else nothing."""
    if len(cells) == sum(map(len, lines.values())):
        return ""
    return (
        " Where further settings vary, each point is the one with the best median: it was chosen by"
        " held-out score, which no epsilon here covers."
    )
