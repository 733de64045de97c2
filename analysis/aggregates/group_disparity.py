"""Who pays for privacy: held-out loss by groups of users, private runs beside non-private ones.

    userdp run -m strategy=user_wise,non_private track.simulation_only=true output=SWEEP ...
    python -m analysis.disparity SWEEP

Reads the ``groups.csv`` that runs leave under ``track.simulation_only=true`` (`docs/disparity.md`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from userdp.analysis.aggregates import seed_groups
from userdp.sim.run_folder import reader as run_folders
from userdp.sim.run_folder.reader import Run

FILE = "groups.csv"
_COLUMNS = ("round", "grouping", "group", "users", "tokens", "loss")
_Losses = Mapping[tuple[str, str], tuple[float, float]]  # (grouping, group) -> before, after


def table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row for a run and a group: loss before and after, and the share of the gain it keeps.

    ``gain_kept = (before - after) / (before - after without privacy)``, both of the same group: 1
    where privacy costs the group nothing, 0 where private training did not help it. The run without
    privacy has the same data, base model, k, selection and seed; of several, the one whose loss
    over all held-out tokens is lowest. None where there is no such run, or the group gained nothing
    in it either.

    Args:
        runs: complete ones; those without a ``groups.csv`` of two rounds are passed over.

    Returns:
        The columns of `Run.named`, then grouping, group, users, loss_before, loss_after, gain,
        gain_kept.

    Raises:
        ConfigurationError: a ``groups.csv`` lacks a column.
    """
    grouped = [run for run in runs if _last(_read(run)) > 0]
    yardsticks: dict[Any, Run] = {}
    for run in sorted(grouped, key=_total_loss, reverse=True):
        if not run.noised:
            yardsticks[_twin_key(run)] = run  # the lowest loss comes last
    return [row for run in grouped for row in _rows(run, yardsticks.get(_twin_key(run)))]


def _read(run: Run) -> list[dict[str, str]]:
    return run.table(FILE, _COLUMNS)


def _last(rows: Sequence[Mapping[str, str]]) -> int:
    return max((int(row["round"]) for row in rows), default=0)


def _twin_key(run: Run) -> tuple[Any, ...]:
    """Equal for runs that differ in mechanism, its noise and its tuning alone."""
    told = run.named()
    same = [told["k"], told["selection"], *(run.config.get(key) for key in seed_groups.SEEDS)]
    return seed_groups.task_key(run), *map(repr, same)


def _rows(run: Run, yardstick: Run | None) -> list[dict[str, Any]]:
    best = {} if yardstick is None else _losses(yardstick)
    users = {(row["grouping"], row["group"]): row["users"] for row in _read(run)}
    found = []
    for (grouping, group), (before, after) in _losses(run).items():
        there = best.get((grouping, group))
        possible = 0.0 if there is None else there[0] - there[1]
        found.append(
            {
                **run.named(),
                "grouping": grouping,
                "group": group,
                "users": int(users[grouping, group]),
                "loss_before": before,
                "loss_after": after,
                "gain": before - after,
                "gain_kept": (before - after) / possible if possible > 0 else None,
            }
        )
    return found


def _losses(run: Run) -> _Losses:
    """Of each group before round 1 and after the last."""
    rows = _read(run)
    last = _last(rows)
    losses = {
        (int(row["round"]), row["grouping"], row["group"]): float(row["loss"]) for row in rows
    }
    return {
        (grouping, group): (before, losses[last, grouping, group])
        for (number, grouping, group), before in losses.items()
        if number == 0
    }


def _total_loss(run: Run) -> float:
    """After the last round, over all held-out tokens: the groups of any one trait hold them all."""
    rows = _read(run)
    last = _last(rows)
    own = [
        (int(row["tokens"]), float(row["loss"]))
        for row in rows
        if int(row["round"]) == last and row["grouping"] == rows[0]["grouping"]
    ]
    return sum(tokens * loss for tokens, loss in own) / sum(tokens for tokens, _ in own)


def main(arguments: Sequence[str]) -> int:
    """Print the table of the runs named, as csv."""
    rows = table(run_folders.complete(map(Path, arguments)))
    return run_folders.print_csv(
        rows, "disparity: name folders of runs with track.simulation_only=true."
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
