"""Who pays for privacy: held-out loss by groups of users, private runs beside non-private ones.

    userdp run -m strategy=user_wise,non_private track.simulation_only=true output=SWEEP ...
    python -m analysis.disparity SWEEP/*

Reads the ``groups.csv`` that runs leave under ``track.simulation_only=true`` (`docs/disparity.md`).
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis import folders as run_folders
from analysis.folders import RunFolder

_Losses = Mapping[tuple[str, str], tuple[float, float]]  # (grouping, group) -> before, after
_PRICE = ("canaries", "canary_records", "canary_references")  # of data; touch nobody held out


def table(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """One row for a run and a group: loss before and after, and the share of the gain it keeps.

    ``gain_kept = (before - after) / (before - after without privacy)``, both of the same group: 1
    where privacy costs the group nothing, 0 where private training did not help it. The run without
    privacy has the same data, base model, k, selection and seed; of several, the one whose loss
    over all held-out tokens is lowest. None where there is no such run, or the group gained nothing
    in it either.

    Args:
        folders: of runs; those that did not end or have no ``groups.csv`` are passed over.

    Returns:
        Columns run, strategy, epsilon (the target; None: not private), records_per_user, selection,
        seed, grouping, group, users, loss_before, loss_after, gain, gain_kept.
    """
    runs = [run for run in run_folders.ended(folders) if run.table("groups.csv")]
    yardsticks: dict[str, RunFolder] = {}
    for run in sorted(runs, key=_total_loss, reverse=True):
        if run.strategy == "non_private":
            yardsticks[_twin_key(run)] = run  # the lowest loss comes last
    return [row for run in runs for row in _rows(run, yardsticks.get(_twin_key(run)))]


def _twin_key(run: RunFolder) -> str:
    """Equal for runs that differ in mechanism, its noise and its tuning alone."""
    data = {name: value for name, value in run.config["data"].items() if name not in _PRICE}
    model = {name: value for name, value in run.config["model"].items() if name != "lora"}
    cells = run.cells()
    same = [cells[name] for name in ("records_per_user", "selection", "seed")]
    return json.dumps([data, model, same], sort_keys=True)


def _rows(run: RunFolder, yardstick: RunFolder | None) -> list[dict[str, Any]]:
    best = {} if yardstick is None else _losses(yardstick)
    users = {(row["grouping"], row["group"]): row["users"] for row in run.table("groups.csv")}
    found = []
    for (grouping, group), (before, after) in _losses(run).items():
        there = best.get((grouping, group))
        possible = 0.0 if there is None else there[0] - there[1]
        found.append(
            {
                **run.cells(),
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


def _losses(run: RunFolder) -> _Losses:
    """Of each group before round 1 and after the last."""
    rows = run.table("groups.csv")
    last = max(int(row["round"]) for row in rows)
    by_round: dict[int, dict[tuple[str, str], float]] = {0: {}, last: {}}
    for row in rows:
        by_round[int(row["round"])][row["grouping"], row["group"]] = float(row["loss"])
    return {name: (before, by_round[last][name]) for name, before in by_round[0].items()}


def _total_loss(run: RunFolder) -> float:
    """After the last round, over all held-out tokens: the groups of any one trait hold them all."""
    rows = run.table("groups.csv")
    last = max(int(row["round"]) for row in rows)
    own = [
        row for row in rows if int(row["round"]) == last and row["grouping"] == rows[0]["grouping"]
    ]
    tokens = [int(row["tokens"]) for row in own]
    losses = [float(row["loss"]) for row in own]
    return sum(n * loss for n, loss in zip(tokens, losses, strict=True)) / sum(tokens)


def main(arguments: Sequence[str]) -> int:
    """Print the table of the runs named, as csv."""
    rows = table([Path(name) for name in arguments])
    if not rows:
        print("disparity: name folders of runs with track.simulation_only=true.", file=sys.stderr)
        return 2
    writer = csv.DictWriter(sys.stdout, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
