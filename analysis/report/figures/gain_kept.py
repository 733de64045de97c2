"""Figure: the share of the non-private gain that each epsilon keeps, at equal gradients."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from userdp.analysis.aggregates.seed_groups import PERPLEXITY, Cell, Metric, Task
from userdp.analysis.aggregates.series import fullest, series
from userdp.analysis.report.figures import privacy_utility
from userdp.analysis.report.figures.figure import Section
from userdp.sim.run_folder.reader import Run

KEPT = Metric(
    key="gain_kept",
    label="share of the gain kept",
    unit="higher is better",
    lower_is_better=False,
)


def section(tasks: Sequence[Task]) -> Section:
    """Share of the non-private gain against epsilon, a line for each strategy and selection."""
    plots = [
        privacy_utility.curve(
            task, fullest(series(task.private, lambda cell: cell.level)), "gain kept"
        )
        for task in map(shares, tasks)
        if task.private
    ]
    return Section(
        name="kept",
        title="Gain kept",
        lead="What training takes off the held-out loss (or adds to the accuracy), as a share of "
        "what the best non-private run takes off with as many expected gradients: rounds times "
        "cohort times k.",
        plots=plots,
        absent="this needs a private run and a non-private one with equal rounds x cohort x k.",
    )


def shares(task: Task) -> Task:
    """The task's private cells, scored by the share of a reference cell's gain that they keep.

    The reference is the non-private cell of equal `gradients` with the largest median gain. A cell
    is left out where there is no reference, or the reference gained nothing.
    """
    largest: dict[float | None, float] = {}  # gradients -> gain of the reference
    for cell in task.cells:
        if not cell.first.noised:
            gain = statistics.median(_gain(task, run) for run in cell.runs)
            largest[gradients(cell)] = max(gain, largest.get(gradients(cell), 0.0))
    largest.pop(None, None)
    cells = tuple(
        _share(task, cell, possible)
        for cell in task.private
        if (possible := largest.get(gradients(cell), 0.0)) > 0
    )
    return Task(name=task.name, cells=cells, metric=KEPT)


def gradients(cell: Cell) -> float | None:
    """Expected record gradients of a run, rounds x cohort x k; None where k is not a number."""
    names = ("rounds", "cohort", "strategy.records_per_user")
    factors = [cell.first.config.get(name) for name in names]
    known = [float(value) for value in factors if isinstance(value, int | float)]
    return math.prod(known) if len(known) == len(names) else None


def _share(task: Task, cell: Cell, possible: float) -> Cell:
    """The cell scored by its gain over ``possible``, the gain of its reference."""
    runs = tuple(
        replace(run, summary={**run.summary, KEPT.key: _gain(task, run) / possible})
        for run in cell.runs
    )
    return Cell(runs=runs, metric=KEPT)


def _gain(task: Task, run: Run) -> float:
    """What training took off the held-out loss, or added to the accuracy."""
    lower = task.metric is PERPLEXITY
    key = "heldout_loss" if lower else task.metric.key
    change = float(run.summary[f"{key}_before"]) - float(run.summary[key])
    return change if lower else -change
