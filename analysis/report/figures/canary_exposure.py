"""Figure: mean exposure of planted canaries against epsilon, from the runs' ``exposure.csv``.

Exposure is log2 of the number of candidates less log2 of the secret's rank among them (Carlini et
al., arXiv 1802.08232). It averages 1 / ln 2, about 1.4 bits, over secrets of which nothing was
learned, so means over canaries are shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from userdp.analysis.aggregates import canary_exposure
from userdp.analysis.aggregates.seed_groups import Cell, Spread, Task
from userdp.analysis.aggregates.series import named, series
from userdp.analysis.report.figures import privacy_utility, style
from userdp.analysis.report.figures.figure import Level, Line, Plot, Section

UNLEARNED = 1 / math.log(2)  # expected exposure in bits of a uniform rank among many candidates


def section(tasks: Sequence[Task]) -> Section:
    """Mean exposure against epsilon, a line for each strategy and selection.

    Raises:
        ConfigurationError: an ``exposure.csv`` lacks a column.
    """
    plots = [plot for task in tasks for plot in _plots(task)]
    return Section(
        name="canaries",
        title="Memorisation",
        lead="Secrets were planted with a few users. Exposure says how far up each ranks among all "
        "candidates when the trained model scores them: high means that it can be read out.",
        plots=plots,
        absent=f"no run planted canaries (no {canary_exposure.FILE}).",
    )


def _spread(cell: Cell) -> Spread | None:
    """Spread over runs of the canaries' mean exposure in bits, after the last round."""
    means = [row["bits_mean"] for run in cell.runs for row in canary_exposure.table([run])]
    return Spread.of(means) if means else None


def _plots(task: Task) -> list[Plot]:
    cells_by_line = series(task.private, lambda cell: cell.level)
    names = named(task, cells_by_line)
    lines = [
        Line(label=names[key], look=style.of(*key), points=points)
        for key, cells in cells_by_line.items()
        if (points := [(c.epsilon or 0.0, s) for c in cells if (s := _spread(c)) is not None])
    ]
    levels = _levels(task)
    return [_plot(task, lines, levels)] if lines else []


def _levels(task: Task) -> list[Level]:
    chance = Level(label="nothing learned", spread=Spread.of([UNLEARNED]), dashes="dotted")
    plain = None if task.plain is None else _spread(task.plain)
    return [chance] if plain is None else [Level(label="non-private", spread=plain), chance]


def _plot(task: Task, lines: Sequence[Line], levels: Sequence[Level]) -> Plot:
    return privacy_utility.leak(
        task,
        lines,
        levels,
        file="exposure",
        title="Canary exposure",
        measure="exposure (bits), mean over canaries",
        column="exposure_bits",
        alt="Exposure in bits.",
        bottom=0,
    )
