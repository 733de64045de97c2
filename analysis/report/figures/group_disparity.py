"""Disparate impact: what fine-tuning did to the held-out loss of each group of users.

Drawn from the gains that `userdp.analysis.aggregates.group_disparity` tells of a run's ``groups.csv``; a group whose loss
falls less under privacy than without pays for privacy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from userdp.analysis.aggregates import group_disparity
from userdp.analysis.aggregates.seed_groups import Cell, Spread, Task
from userdp.analysis.aggregates.series import fullest, named, series
from userdp.analysis.report.figures import style
from userdp.analysis.report.figures.figure import Dots, Plot, Section, draw_dots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 8  # series of a figure: the ends of four lines
Group = tuple[str, str]  # grouping, group


def section(tasks: Sequence[Task]) -> Section:
    """A figure for each way of grouping."""
    plots = [plot for task in tasks for plot in _plots(task)]
    return Section(
        name="groups",
        title="Who pays for privacy",
        lead="Change of the held-out loss of each group of users, from the base model to the end "
        "of training: further left is a larger gain. Groups whose private mark lies far right of "
        "the non-private one pay most.",
        plots=plots,
        absent="" if plots else f"no run left a {group_disparity.FILE} with two rounds in it.",
    )


def _plots(task: Task) -> list[Plot]:
    cells = _shown(task)
    spreads = {name: s for name, cell in cells.items() if (s := _spreads(cell))}
    groupings = dict.fromkeys(g for s in spreads.values() for g, _ in s)
    return [_plot(task, grouping, cells, spreads) for grouping in groupings]


def _shown(task: Task) -> dict[str, Cell]:
    """The non-private cell, and the cells of lines at their smallest and largest epsilon."""
    found = fullest(series(task.private, lambda cell: cell.level))
    names = named(task, found)
    ends = [
        (f"{names[key]}, epsilon {cell.level:g}", cell)
        for key in _in_turn(found)
        for cell in dict.fromkeys((found[key][0], found[key][-1]))
    ]
    plain = [] if task.plain is None else [("non-private", task.plain)]
    return dict([*plain, *ends[:_MOST]])


def _in_turn(lines: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
    """One line of each strategy, then the next of each: none crowds another out."""
    seen: Counter[str] = Counter()
    turns = {}
    for strategy, selection in lines:
        turns[strategy, selection] = seen[strategy]
        seen[strategy] += 1
    return sorted(lines, key=turns.__getitem__)


def _spreads(cell: Cell) -> dict[Group, Spread]:
    """Of the last loss less the first."""
    found: dict[Group, list[float]] = {}
    for row in group_disparity.table(cell.runs):
        found.setdefault((row["grouping"], row["group"]), []).append(-row["gain"])
    return {group: Spread.of(values) for group, values in found.items()}


def _plot(
    task: Task,
    grouping: str,
    cells: Mapping[str, Cell],
    spreads: Mapping[str, Mapping[Group, Spread]],
) -> Plot:
    groups = _of(grouping, spreads.values())
    dots = [
        Dots(
            label=name,
            look=_look(number, cells[name]),
            spreads={group: s for (own, group), s in known.items() if own == grouping},
        )
        for number, (name, known) in enumerate(spreads.items())
    ]

    def draw(axes: Axes) -> None:
        draw_dots(axes, dots, groups)
        axes.axvline(0, color=style.MUTED, linewidth=1)
        axes.set_ylabel(grouping.replace("_", " "))
        axes.set_xlabel("change of held-out loss (nats a token)")

    told = [
        f"{name}, {group}: {known[grouping, group].median:+.3f}"
        for name, known in spreads.items()
        for group in groups
        if (grouping, group) in known
    ]
    return Plot(
        name=task.file(f"groups {grouping}"),
        title=task.title(f"Loss change by {grouping.replace('_', ' ')}"),
        note="Groups of held-out users, by this trait. Mark: median over seeds; bar: their range.",
        alt=f"Change of held-out loss. {'; '.join(told)}.",
        columns=("series", "group", "change (median)", "change (min)", "change (max)", "runs"),
        rows=[
            (name, group, s.median, s.low, s.high, s.count)
            for name, known in spreads.items()
            for (own, group), s in known.items()
            if own == grouping
        ],
        draw=draw,
        simulation_only=True,
    )


def _of(grouping: str, spreads: Iterable[Mapping[Group, Spread]]) -> list[str]:
    return list(dict.fromkeys(g for s in spreads for own, g in s if own == grouping))


def _look(number: int, cell: Cell) -> style.Look:
    """The strategy's colour; a marker of its own for each series."""
    own = style.of(cell.strategy, cell.selection)
    return style.Look(colour=own.colour, marker=style.numbered(number).marker)
