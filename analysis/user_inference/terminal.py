"""Shows attacked runs on a terminal: one table of rates, and one by numbers of texts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import rich.box
import rich.console
import rich.table

from userdp.analysis.user_inference import known_texts
from userdp.analysis.user_inference.findings import FPRS
from userdp.sim.common import plain_text

WIDTH = 118  # columns of a table in a file or a pipe
_KINDS = {
    known_texts.HELD_BACK: "records held back from training",
    known_texts.NOT_SELECTED: "own records beyond the k that were selected",
    known_texts.ANY: "any of their records: some may have been trained on",
}


def print_attacked(runs: Sequence[Mapping[str, Any]]) -> None:
    """Print a row for each run, then its AUC by number of texts, then how to read them."""
    console = rich.console.Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print("userdp attack: user inference, simulation_only", highlight=False)
    console.print(_rates(runs))
    console.print(_by_texts(runs))
    console.print(
        "In brackets 95 % bootstrap intervals over users; chance gives AUC 0.5 and TPR = FPR. "
        "Bound: the largest TPR that the claimed (epsilon, delta) allows.",
        highlight=False,
    )
    for kind in dict.fromkeys(run["groups"][0]["texts"] for run in runs):
        console.print(f"Known texts ({kind}): {_KINDS[kind]}.", highlight=False)
    for run in runs:
        if run["groups"][0]["exceeds"]:
            name = plain_text.shown(run["run"])
            console.print(
                f"BEYOND THE CLAIM: {name}: a TPR exceeds its bound by more than sampling error.",
                highlight=False,
            )


def _rates(runs: Sequence[Mapping[str, Any]]) -> rich.table.Table:
    tprs = [title for name in FPRS for title in (f"TPR at {name} % FPR", "bound")]
    table = _table("run", "strategy", "epsilon", "users", "AUC", *tprs, "canary bits")
    for run in runs:
        group = run["groups"][0]
        cells = [
            cell
            for name in FPRS
            for cell in (_estimate(group, f"tpr_at_{name}"), _figure(group[f"bound_at_{name}"]))
        ]
        table.add_row(
            *(plain_text.shown(run["run"]), run["strategy"], _figure(run["epsilon"])),
            *(f"{group['members']} / {group['others']}", _estimate(group, "auc"), *cells),
            _figure(run["canary_exposure"]),
        )
    return table


def _by_texts(runs: Sequence[Mapping[str, Any]]) -> rich.table.Table:
    table = _table("run", "group", "texts of a user", "users", "AUC")
    for run in runs:
        for group in run["groups"][1:]:
            table.add_row(
                *(plain_text.shown(run["run"]), group["group"]),
                f"{group['texts_least']} to {group['texts_most']}",
                *(f"{group['members']} / {group['others']}", _estimate(group, "auc")),
            )
    return table


def _table(*columns: str) -> rich.table.Table:
    table = rich.table.Table(box=rich.box.SIMPLE)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _estimate(group: Mapping[str, Any], name: str) -> str:
    value, low, high = (group[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{value:.2f} \\[{low:.2f}, {high:.2f}]"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
