"""A series is what one line of a figure joins: the cells of a strategy with a selection.

Where other settings vary too, a line shows the setting with the best median, and its caption says
that this was chosen by held-out score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from userdp.analysis.aggregates.seed_groups import Cell, Task, best

Series = dict[tuple[str, str], list[Cell]]  # by strategy and selection


def series(cells: Iterable[Cell], x: Callable[[Cell], Any]) -> Series:
    """(strategy, selection) -> its best cell at every x, by x."""
    found: dict[tuple[str, str], dict[Any, Cell]] = {}
    for cell in cells:
        line = found.setdefault((cell.strategy, cell.selection), {})
        if (chosen := best(filter(None, (line.get(x(cell)), cell)), cell.metric)) is not None:
            line[x(cell)] = chosen
    return {name: [line[at] for at in sorted(line)] for name, line in sorted(found.items())}


def joined(lines: Series) -> Series:
    """Those of `series` that have more than one point."""
    return {key: line for key, line in lines.items() if len(line) > 1}


def fullest(lines: Series) -> Series:
    """`joined`, where there are any: single points would crowd them out."""
    return joined(lines) or lines


def named(task: Task, lines: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """What each line of `series` is called: the selection is told where there are several."""
    several = len({cell.selection for cell in task.cells}) > 1
    return {key: f"{key[0]}, {key[1]}" if several else key[0] for key in lines}


def chosen_among(cells: Sequence[Cell], lines: Series) -> str:
    """A sentence where lines show the best of several settings; else nothing."""
    if len(cells) == sum(map(len, lines.values())):
        return ""
    return (
        " Where further settings vary, each point is the one with the best median: it was chosen by"
        " held-out score, which no epsilon here covers."
    )
