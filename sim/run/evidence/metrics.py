"""Compares the metrics of a run with its ledger and its claim."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from userdp.server.ledger.ledger import Account
from userdp.server.mechanisms.base import Mechanism
from userdp.sim.run.evidence import findings
from userdp.sim.run.evidence.findings import Findings
from userdp.sim.run_folder import reader
from userdp.sim.run_folder.layout import SUMMARY, RunFolder


def check(
    run: RunFolder,
    account: Account,
    mechanism: Mechanism,
    claim: Mapping[str, Any],
    found: Findings,
    *,
    ended: bool,
) -> None:
    """Compare rounds, clip norms, noise and epsilon.

    Args:
        run: its folder.
        account: of its ledger.
        mechanism: of its header.
        claim: the statement that follows from the ledger.
        found: takes a line.
        ended: whether there is a statement, so that a summary of another epsilon is an error.

    Raises:
        ConfigurationError: the metrics contradict the ledger.
    """
    rows = reader.metrics(run)
    if not rows:
        found.lacking.append(f"{run.metrics.name} is not there")
        return
    intents = account.of_kind("intent")
    problems: list[str] = []
    for row in rows:
        if row["round"] and row["round"] not in intents and "release_norm" in row:
            problems.append(f"it logs round {row['round']}, which the ledger does not hold: ")
            problems[-1] += "entries were removed, or a copy of the folder went on (a fork)"
        elif row["round"] in intents:
            problems += _of_round(row, intents[row["round"]]["queries"], mechanism)
        problems += _epsilon(row, account, claim, ended=ended)
    findings.refuse_unless_empty(run.metrics, problems[:3])
    found.compared.append(run.metrics.name)


def _of_round(
    row: Mapping[str, Any], queries: list[Mapping[str, Any]], mechanism: Mechanism
) -> list[str]:
    """Clip norm and noise of a round against its query of the update, where it has one."""
    update = next((query for query in queries if query["name"] == "update"), None)
    if update is None:
        return []
    pairs = [("clip_norm", update["sensitivity"])]
    if findings.same(mechanism.noise_std, mechanism.queries()[0].noise_std):  # in every round
        pairs.append(("noise_std", update["noise_std"]))
    return [
        f"round {row['round']}: {name} {row[name]}, the ledger says {right}"
        for name, right in pairs
        if row.get(name) is not None and not findings.same(row[name], right)
    ]


def _epsilon(
    row: Mapping[str, Any], account: Account, claim: Mapping[str, Any], *, ended: bool
) -> list[str]:
    """Epsilon of the last round and of the summary against the claim, which they may not beat."""
    problems, last = [], max(account.of_kind("intent"), default=0)
    told = row.get("epsilon")
    least = claim["epsilon_lower"]
    if told is not None and row["round"] == last and least is not None and told < least:
        problems.append(f"round {last}: epsilon {told}, the ledger's is at least {least}")
    for name in ("epsilon", "delta"):
        told = row.get(f"{SUMMARY}{name}")
        if ended and told is not None and not findings.same(told, claim[name]):
            problems.append(f"summary: {name} {told}, the ledger says {claim[name]}")
    return problems
