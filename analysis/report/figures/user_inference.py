"""Figure: AUC of the user inference attack against epsilon, from the runs' tables.

`userdp attack` writes these tables (Kandpal et al., arXiv 2310.09266). An AUC of 0.5 is what
guessing gives.
"""

from __future__ import annotations

from collections.abc import Sequence

from userdp.analysis.aggregates import user_inference
from userdp.analysis.aggregates.seed_groups import Cell, Spread, Task
from userdp.analysis.aggregates.series import named, series
from userdp.analysis.report.figures import privacy_utility, style
from userdp.analysis.report.figures.figure import Level, Line, Plot, Section

CHANCE = 0.5  # AUC of guessing


def section(tasks: Sequence[Task]) -> Section:
    """AUC against epsilon, a line for each strategy and selection.

    Raises:
        ConfigurationError: a ``user_inference.csv`` lacks a column.
    """
    return Section(
        name="inference",
        title="User inference",
        lead="An attacker with a few texts of a user guesses from the adapter whether that user "
        "trained. AUC is the probability that a user who did ranks above one who did not.",
        plots=[plot for task in tasks for plot in _plots(task)],
        absent=f"userdp attack has attacked no run (no {user_inference.FILE}).",
    )


def _spread(cell: Cell) -> Spread | None:
    """Spread over runs of the AUC over all users."""
    rates = [found["auc"] for run in cell.runs if (found := user_inference.of(run)) is not None]
    return Spread.of(rates) if rates else None


def _plots(task: Task) -> list[Plot]:
    cells_by_line = series(task.private, lambda cell: cell.level)
    names = named(task, cells_by_line)
    lines = [
        Line(label=names[key], look=style.of(*key), points=points)
        for key, cells in cells_by_line.items()
        if (points := [(c.epsilon or 0.0, s) for c in cells if (s := _spread(c)) is not None])
    ]
    plain = None if task.plain is None else _spread(task.plain)
    levels = [] if plain is None else [Level(label="non-private", spread=plain)]
    levels.append(Level(label="guessing", spread=Spread.of([CHANCE]), dashes="dotted"))
    return [_plot(task, lines, levels)] if lines else []


def _plot(task: Task, lines: Sequence[Line], levels: Sequence[Level]) -> Plot:
    return privacy_utility.leak(
        task,
        lines,
        levels,
        file="user_inference",
        title="User inference",
        measure="AUC of user inference",
        column="auc",
        alt="AUC; 0.5 is guessing.",
    )
