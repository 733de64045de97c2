"""Figure: change of the held-out loss of each group of users, from the runs' ``groups.csv``.

A group whose loss falls less under privacy than without it pays for privacy (disparate impact).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from userdp.analysis.aggregates import group_disparity
from userdp.analysis.aggregates.seed_groups import Cell, Spread, Task
from userdp.analysis.aggregates.series import fullest, named, series
from userdp.analysis.report.figures import style
from userdp.analysis.report.figures.figure import Dots, Plot, Section, draw_dots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_CELLS = 8  # of a figure: the two ends of four lines
Group = tuple[str, str]  # grouping, group


def section(tasks: Sequence[Task]) -> Section:
    """A figure for each way of grouping the users.

    Raises:
        ConfigurationError: a ``groups.csv`` lacks a column.
    """
    plots = [plot for task in tasks for plot in _plots(task)]
    return Section(
        name="groups",
        title="Who pays for privacy",
        lead="Change of the held-out loss of each group of users, from the base model to the end "
        "of training: further left is a larger gain. Groups whose private mark lies far right of "
        "the non-private one pay most.",
        plots=plots,
        absent=f"no run left a {group_disparity.FILE} with two rounds in it.",
    )


def _plots(task: Task) -> list[Plot]:
    cells = _shown(task)
    spreads = {name: s for name, cell in cells.items() if (s := _spreads(cell))}
    groupings = dict.fromkeys(g for s in spreads.values() for g, _ in s)
    return [_plot(task, grouping, cells, spreads) for grouping in groupings]


def _shown(task: Task) -> dict[str, Cell]:
    """Label -> cell: the non-private one, and each line's at its smallest and largest epsilon."""
    lines = fullest(series(task.private, lambda cell: cell.level))
    names = named(task, lines)
    ends = [
        (f"{names[key]}, epsilon {cell.level:g}", cell)
        for key in _in_turn(lines)
        for cell in dict.fromkeys((lines[key][0], lines[key][-1]))
    ]
    plain = [] if task.plain is None else [("non-private", task.plain)]
    return dict([*plain, *ends[:_MOST_CELLS]])


def _in_turn(lines: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
    """One line of each strategy, then the next of each, so that no strategy crowds another out."""
    seen: Counter[str] = Counter()
    turns = {}
    for strategy, selection in lines:
        turns[strategy, selection] = seen[strategy]
        seen[strategy] += 1
    return sorted(lines, key=turns.__getitem__)


def _spreads(cell: Cell) -> dict[Group, Spread]:
    """Spread over runs of each group's last loss less its first."""
    changes: dict[Group, list[float]] = {}
    for row in group_disparity.table(cell.runs):
        changes.setdefault((row["grouping"], row["group"]), []).append(-row["gain"])
    return {group: Spread.of(values) for group, values in changes.items()}


def _plot(
    task: Task,
    grouping: str,
    cells: Mapping[str, Cell],
    spreads: Mapping[str, Mapping[Group, Spread]],
) -> Plot:
    dots = [
        Dots(
            label=name,
            look=_look(number, cells[name]),
            spreads={group: s for (key, group), s in known.items() if key == grouping},
        )
        for number, (name, known) in enumerate(spreads.items())
    ]
    groups = list(dict.fromkeys(group for series in dots for group in series.spreads))

    def draw(ax: Axes) -> None:
        draw_dots(ax, dots, groups)
        ax.axvline(0, color=style.MUTED, linewidth=1)
        ax.set_ylabel(grouping.replace("_", " "))
        ax.set_xlabel("change of held-out loss (nats a token)")

    changes = [
        f"{series.label}, {group}: {series.spreads[group].median:+.3f}"
        for series in dots
        for group in groups
        if group in series.spreads
    ]
    return Plot(
        name=task.file(f"groups {grouping}"),
        title=task.title(f"Loss change by {grouping.replace('_', ' ')}"),
        note="Groups of held-out users, by this trait. Mark: median over seeds; bar: their range.",
        alt=f"Change of held-out loss. {'; '.join(changes)}.",
        columns=("series", "group", "change (median)", "change (min)", "change (max)", "runs"),
        rows=[row for series in dots for row in series.rows()],
        draw=draw,
        simulation_only=True,
    )


def _look(number: int, cell: Cell) -> style.Look:
    """The strategy's colour, and a marker of its own for each series."""
    colour = style.of(cell.strategy, cell.selection).colour
    return style.Look(colour=colour, marker=style.numbered(number).marker)
