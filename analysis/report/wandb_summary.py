"""Logs one Weights & Biases run about a whole sweep: its table, and utility at each epsilon.

The runs of a sweep log themselves (`userdp.sim.tracking.wandb_tracker`). This one is in their
group, of job type ``sweep``, and is made from the files that they left; offline unless the
environment's WANDB_MODE says otherwise, as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from userdp.analysis.aggregates import canary_exposure, group_disparity, seed_groups, series
from userdp.analysis.aggregates.seed_groups import Cell, Task
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.settings import Track
from userdp.sim.run_folder import config_diff, reader
from userdp.sim.run_folder.reader import Run
from userdp.sim.tracking import metric_kinds, wandb_tracker

_LOG = logging.getLogger("userdp")


def log(folder: Path, track: Track) -> None:
    """Log the sweep whose runs are in ``folder``, if it is tracked by wandb.

    Only public and released values are logged; with ``track.simulation_only=true`` also the tables
    of groups and canaries. Only complete runs take part; a sweep without any logs nothing.

    Args:
        track: tracking settings of any of its jobs.
    """
    runs = reader.complete([folder])
    if track.sink != "wandb" or not runs:
        return
    tasks = seed_groups.tasks(runs)
    try:
        board = _opened(folder, track, len(runs))
    except ConfigurationError as error:  # the runs themselves are done and stored
        _LOG.warning("The sweep's own wandb run is left out: %s", error)
        return
    logged = {"sweep": _table(_rows(runs)), **_plots(tasks)}
    if track.simulation_only:
        tables = {"groups": group_disparity.table(runs), "canaries": canary_exposure.table(runs)}
        logged |= {f"simulation_only/{k}": _table(rows) for k, rows in tables.items() if rows}
    board.log(logged)
    board.summary.update({"runs": len(runs), **_best(tasks)})
    board.finish()


def _opened(folder: Path, track: Track, runs: int) -> Any:
    return wandb_tracker.opened(
        {"runs": runs, "simulation_only": track.simulation_only},
        project=track.project,
        group=track.group or str(folder),
        job_type="sweep",
        name=f"sweep {folder.name}",
        dir=folder,
    )


def _rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row for each run: its name, the settings in which runs differ, its claim and figures."""
    choices = [key for key in config_diff.keys(runs) if key not in reader.NAMED.values()]
    return [
        {
            **run.named(),
            **{key: run.config.get(key) for key in choices},
            "private": run.private,
            "claim_epsilon": run.statement["epsilon"],
            "claim_delta": run.statement["delta"],
            **{k: v for k, v in _public(run).items() if k not in ("epsilon", "delta")},
        }
        for run in runs
    ]


def _public(run: Run) -> dict[str, metric_kinds.Value]:
    """The figures of the run's summary that may be published."""
    figures = {k: v for k, v in run.summary.items() if not k.startswith(reader.SIMULATION_ONLY)}
    return metric_kinds.typed(figures, {}, keep=False)


def _table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A wandb table with the columns of all rows.

    A wandb column has one type, so columns of mixed types become text.
    """
    import wandb

    columns: list[Any] = list(dict.fromkeys(name for row in rows for name in row))
    cast = {name: _cast([row.get(name) for row in rows]) for name in columns}
    data = [[cast[name](row.get(name)) for name in columns] for row in rows]
    return wandb.Table(columns=columns, data=data)


def _cast(values: Sequence[Any]) -> Callable[[Any], Any]:
    """The conversion of a column's values to one type."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return lambda value: None if value is None else float(value)
    if len(kinds) > 1 or list in kinds:
        return lambda value: None if value is None else str(value)
    return lambda value: value


def _plots(tasks: Sequence[Task]) -> dict[str, Any]:
    """A plot for each task: median score against epsilon, beside the non-private score."""
    import wandb

    plots = {}
    for task in tasks:
        epsilons = sorted({cell.level for cell in task.private if cell.level is not None})
        lines = {name: _points(line) for name, line in _lines(task).items()}
        if task.plain is not None and epsilons:
            lines["non-private"] = [(epsilon, task.plain.score.median) for epsilon in epsilons]
        if lines:
            plots[f"frontier/{task.file(task.metric.key)}"] = wandb.plot.line_series(
                xs=[[x for x, _ in line] for line in lines.values()],
                ys=[[y for _, y in line] for line in lines.values()],
                keys=list(lines),
                title=task.title(f"{task.metric.label} by epsilon, best setting of each line"),
                xname="epsilon",
            )
    return plots


def _lines(task: Task) -> dict[str, list[Cell]]:
    """Label -> the best private cell at each epsilon."""
    lines = series.series(task.private, lambda cell: cell.level)
    names = series.named(task, lines)
    return {names[key]: line for key, line in lines.items()}


def _points(line: Sequence[Cell]) -> list[tuple[float, float]]:
    """(epsilon to two digits, median score)."""
    return [(cell.level, cell.score.median) for cell in line if cell.level is not None]


def _best(tasks: Sequence[Task]) -> dict[str, float]:
    """The points of all lines by name, for the summary that a list of sweeps shows."""
    return {
        f"{task.file(name) if task.name else name}/epsilon_{epsilon:g}": score
        for task in tasks
        for name, line in _lines(task).items()
        for epsilon, score in _points(line)
    }
