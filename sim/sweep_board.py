"""One Weights & Biases run about a whole sweep: its table, and what privacy costs at each epsilon.

The runs of a sweep log themselves (`sim.track_wandb`); this one is in their group, of job type
``sweep``, and made from the files that they left. Offline first, as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis import disparity, exposure, folders, frontier
from analysis.folders import RunFolder
from sim import metrics, track_wandb
from sim.settings import Settings


def log(folder: Path, settings: Settings) -> None:
    """Log the sweep whose runs are in ``folder``, if ``settings`` track by wandb.

    Public and released values alone; with ``track.simulation_only=true`` also the tables of groups
    and canaries. Runs that did not end are left out; a sweep without an ended run logs nothing.

    Args:
        settings: of any of its jobs; project, group and the switch are read.
    """
    runs = folders.of_sweep(folder)
    if settings.track.sink != "wandb" or not runs:
        return
    track, paths = settings.track, [run.path for run in runs]
    rows = frontier.rows(runs, _public)
    board = track_wandb.opened(
        {"runs": len(runs), "simulation_only": track.simulation_only},
        project=track.project,
        group=track.group or settings.sweep or str(folder),
        job_type="sweep",
        name=f"sweep {folder.name}",
        dir=folder,
    )
    logged = {"sweep": _table(rows), **_plots(rows)}
    if track.simulation_only:
        private = {"groups": disparity.table(paths), "canaries": exposure.table(paths)}
        logged |= {f"simulation_only/{k}": _table(found) for k, found in private.items() if found}
    board.log(logged)
    board.summary.update({"runs": len(runs), **_best(rows)})
    board.finish()


def _public(run: RunFolder) -> dict[str, metrics.Value]:
    """A run's figures, each of a declared type."""
    return metrics.typed(run.summary(), {}, keep=False)


def _table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Every row has the columns of all; a wandb column has one type, so mixed ones are text."""
    import wandb

    columns: list[Any] = list(dict.fromkeys(name for row in rows for name in row))
    cast = {name: _cast([row.get(name) for row in rows]) for name in columns}
    data = [[cast[name](row.get(name)) for name in columns] for row in rows]
    return wandb.Table(columns=columns, data=data)


def _cast(values: Sequence[Any]) -> Callable[[Any], Any]:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return lambda value: None if value is None else float(value)
    if len(kinds) > 1:
        return lambda value: None if value is None else str(value)
    return lambda value: value


def _plots(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Held-out scores against epsilon, one line a strategy at its best setting."""
    import wandb

    plots = {}
    for score in frontier.SCORES:
        lines = frontier.lines(rows, score)
        if lines:
            plots[f"frontier/{score}"] = wandb.plot.line_series(
                xs=[[x for x, _ in line] for line in lines.values()],
                ys=[[y for _, y in line] for line in lines.values()],
                keys=list(lines),
                title=f"{score.replace('_', '-')} by epsilon, best setting of each strategy",
                xname="epsilon",
            )
    return plots


def _best(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The points of the first score's lines, as a summary that a list of sweeps can show."""
    return {
        f"{name}/epsilon_{epsilon:g}": value
        for name, line in frontier.lines(rows, frontier.SCORES[0]).items()
        for epsilon, value in line
    }
