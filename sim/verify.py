"""`userdp verify RUN`: the claim of a run, recomputed from its ledger alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from server import ledger, statement
from sim import header
from sim.errors import ConfigurationError


def run(arguments: Sequence[str]) -> None:
    """Print what the ledger proves; refuse a damaged ledger or a statement that says something else.

    Raises:
        ConfigurationError: no such run, a broken chain, or a statement of another claim.
    """
    if len(arguments) != 1:
        raise ConfigurationError("verify: name one run folder.")
    folder = Path(arguments[0])
    try:
        account = ledger.verify(folder / "ledger.jsonl")
    except ledger.LedgerError as error:
        raise ConfigurationError(f"verify: {error}") from None
    claim = header.claim(account.header, account.spent)
    told = statement.build(account.header, account.spent, claim, ledger_hash=account.head)
    _compare(folder / "privacy_statement.json", told)
    print(f"{account.rounds} rounds intended, {len(account.unfinished)} of them without a release.")
    print(statement.prose(told).split("\n\n")[0])


def _compare(path: Path, told: dict) -> None:
    """The stored statement must make the claim that the ledger makes."""
    if not path.is_file():
        print(f"{path} is not there: the run did not end.")
        return
    stored = json.loads(path.read_text())
    for name in ("private", "epsilon", "delta", "rounds", "noise_multiplier", "ledger_hash"):
        if stored.get(name) != told[name]:
            raise ConfigurationError(
                f"verify: {path} says {name}={stored.get(name)}, the ledger says {told[name]}."
            )
