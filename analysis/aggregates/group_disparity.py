"""Held-out loss by groups of users, private runs beside non-private ones: who pays for privacy.

    userdp run -m strategy=user_wise,non_private track.simulation_only=true output=SWEEP ...
    python -m userdp.analysis.aggregates.group_disparity SWEEP

Reads the ``groups.csv`` that runs write under ``track.simulation_only=true`` (`docs/disparity.md`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from userdp.analysis.aggregates import seed_groups
from userdp.analysis.aggregates.csv_table import print_csv
from userdp.sim.run_folder import reader
from userdp.sim.run_folder.layout import RunFolder
from userdp.sim.run_folder.reader import Run

FILE = RunFolder(Path()).groups.name
_COLUMNS = ("round", "grouping", "group", "users", "tokens", "loss")
_Losses = Mapping[tuple[str, str], tuple[float, float]]  # (grouping, group) -> before, after


def table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row for each run and group: its loss before and after, and the share of gain it keeps.

    ``gain_kept = (before - after) / (before - after without privacy)``, both for the same group: 1
    where privacy costs the group nothing, 0 where private training did not help it. The reference
    run without privacy has the same data, base model, k, selection and seed; of several, the one
    with the lowest loss over all held-out tokens. ``gain_kept`` is None where there is no reference
    run, or the group gained nothing in it.

    Args:
        runs: complete runs; those without a ``groups.csv`` of two rounds are skipped.

    Returns:
        The columns of `Run.named`, then grouping, group, users, loss_before, loss_after, gain,
        gain_kept. Losses are in nats a token.

    Raises:
        ConfigurationError: a ``groups.csv`` lacks a column.
    """
    grouped = [run for run in runs if _last_round(_read(run)) > 0]
    references: dict[tuple[Any, ...], Run] = {}
    for run in sorted(grouped, key=_total_loss, reverse=True):
        if not run.noised:
            references[_reference_key(run)] = run  # the lowest loss comes last and stays
    return [row for run in grouped for row in _rows(run, references.get(_reference_key(run)))]


def _read(run: Run) -> list[dict[str, str]]:
    return run.table(FILE, _COLUMNS)


def _last_round(rows: Sequence[Mapping[str, str]]) -> int:
    return max((int(row["round"]) for row in rows), default=0)


def _reference_key(run: Run) -> tuple[Any, ...]:
    """Equal for runs that differ only in their mechanism, its noise and its tuning."""
    names = run.named()
    equal = [names["k"], names["selection"], *(run.config.get(key) for key in seed_groups.SEEDS)]
    return seed_groups.task_key(run), *map(repr, equal)


def _rows(run: Run, reference: Run | None) -> list[dict[str, Any]]:
    reference_losses = {} if reference is None else _losses(reference)
    users = {(row["grouping"], row["group"]): row["users"] for row in _read(run)}
    rows = []
    for (grouping, group), (before, after) in _losses(run).items():
        reference_before, reference_after = reference_losses.get((grouping, group), (0.0, 0.0))
        possible = reference_before - reference_after
        rows.append(
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
    return rows


def _losses(run: Run) -> _Losses:
    """Loss of each group before round 1 and after the last round."""
    rows = _read(run)
    last = _last_round(rows)
    losses = {
        (int(row["round"]), row["grouping"], row["group"]): float(row["loss"]) for row in rows
    }
    return {
        (grouping, group): (before, losses[last, grouping, group])
        for (number, grouping, group), before in losses.items()
        if number == 0
    }


def _total_loss(run: Run) -> float:
    """Loss after the last round over all held-out tokens.

    The groups of any one grouping hold all users, so the first grouping is enough.
    """
    rows = _read(run)
    last = _last_round(rows)
    parts = [
        (int(row["tokens"]), float(row["loss"]))
        for row in rows
        if int(row["round"]) == last and row["grouping"] == rows[0]["grouping"]
    ]
    return sum(tokens * loss for tokens, loss in parts) / sum(tokens for tokens, _ in parts)


def main(arguments: Sequence[str]) -> int:
    """Print the table of the run folders named, as CSV; returns the exit code."""
    rows = table(reader.complete(map(Path, arguments)))
    return print_csv(rows, "group_disparity: name folders of runs with track.simulation_only=true.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
