"""The table of runs: one row for every run of the folder, complete or not."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from userdp.analysis.report.figures import concentration_test, noise_and_signal
from userdp.analysis.report.figures.axes import number
from userdp.sim.common import durable_file, plain_text
from userdp.sim.run_folder.reader import Run


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: its key in the CSV, and its texts on the page."""

    key: str
    title: str
    help: str
    numeric: bool = True


COLUMNS = (
    Column(key="run", title="Run", help="folder, relative to the one that was read", numeric=False),
    Column(key="state", title="State", help="only complete runs enter figures", numeric=False),
    Column(key="strategy", title="Strategy", help="the mechanism", numeric=False),
    Column(key="selection", title="Selection", help="which records a user gives", numeric=False),
    Column(key="k", title="k", help="records per user"),
    Column(key="epsilon", title="ε", help="claimed, at most; spent so far where incomplete"),
    Column(key="heldout_perplexity", title="Perplexity", help="held-out, at the end"),
    Column(key="heldout_accuracy", title="Accuracy", help="held-out, at the end"),
    Column(key="heldout_loss", title="Loss", help="held-out, nats a token or class, at the end"),
    Column(key="seed", title="Seed", help="of selection and initialisation"),
    Column(key="rounds", title="Rounds", help="spent"),
    Column(key="cohort", title="Cohort", help="expected users in a round"),
    Column(key="noise_multiplier", title="z", help="noise multiplier: std on the sum over C"),
    Column(key="clip_norm", title="C", help="clip norm of one unit, in the first round"),
    Column(key="learning_rate", title="Rate", help="learning rate of the server's optimizer"),
    Column(key="signal_to_noise", title="Signal / noise", help="root mean square over rounds"),
    Column(key="passed", title="Passed", help="share of rounds whose test passed (concentrated)"),
    Column(key="delta", title="δ", help="of the claim"),
)
_DECIMALS = {"epsilon": ".3f", "heldout_loss": ".4f", "heldout_perplexity": ",.2f"}
_SHARES = ("heldout_accuracy", "passed")
_SCORES = ("heldout_loss", "heldout_perplexity", "heldout_accuracy")
Values = dict[str, Any]


def values(run: Run) -> Values:
    """The row of a run: key of a column -> value; None where it is not known or not applicable."""
    config, statement = run.config, run.statement
    passed = concentration_test.passes(run)
    return {
        **run.named(),
        "state": run.state,
        "epsilon": run.epsilon if run.private or not statement else None,
        "delta": statement.get("delta") if run.private else None,
        "noise_multiplier": statement.get("noise_multiplier") if run.noised else None,
        "clip_norm": config.get("strategy.clip_norm"),
        "rounds": statement.get("rounds", run.last_round),
        "cohort": config.get("cohort"),
        "learning_rate": config.get("optimizer.lr"),
        **{key: run.summary.get(key) for key in _SCORES},
        "signal_to_noise": _signal_to_noise(run),
        "passed": sum(passed) / len(passed) if passed else None,
    }


def shown(column: Column, value: Any) -> str:
    """A value as the page prints it; a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if column.key in _SHARES:
        return f"{value:.1%}"
    return format(value, _DECIMALS[column.key]) if column.key in _DECIMALS else number(value)


def used(rows: Sequence[Values]) -> list[Column]:
    """The columns in which any run has a value."""
    return [column for column in COLUMNS if any(row[column.key] is not None for row in rows)]


def write(path: Path, rows: Sequence[Values]) -> None:
    """Write all columns of all runs as CSV."""
    with durable_file.text(path) as file:
        writer = csv.DictWriter(file, [column.key for column in COLUMNS], lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(plain_text.row, rows))


def _signal_to_noise(run: Run) -> float | None:
    """Root mean square signal over root mean square noise; None without logged releases."""
    norms = noise_and_signal.noise_norms(run)
    if not norms:
        return None
    mean_square = sum(norm**2 for _, norm in norms) / len(norms)
    return float(noise_and_signal.signal(run) / mean_square**0.5)
