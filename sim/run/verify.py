"""`userdp verify RUN`: the claim of a run, recomputed from its ledger alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from userdp.server.ledger import ledger
from userdp.server.statement import statement
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.run import ledger_header

# Not in the ledger: whether metrics were switched on, the sweep, who computed it.
_ELSEWHERE = ("not_covered", "sweep", "accountant_version")


def run(arguments: Sequence[str]) -> None:
    """Print what the ledger proves; refuse a damaged ledger or a statement that says otherwise.

    Raises:
        ConfigurationError: no such run, a broken chain, or a statement of another claim.
    """
    if len(arguments) != 1:
        raise ConfigurationError("verify: name one run folder.")
    folder = Path(arguments[0])
    path = folder / "ledger.jsonl"
    try:
        account = ledger.verify(path)
        claim = ledger_header.claim(account.header, account.spent)
        told = statement.build(
            account.header, account.spent, claim, ledger_hash=account.head, codes=account.codes
        )
    except OSError as error:
        raise ConfigurationError(f"verify: {path}: {error.strerror}.") from None
    except KeyError as error:
        raise ConfigurationError(f"verify: {path} lacks {error} in its header.") from None
    except ValueError as error:  # a LedgerError, or a header of no run of ours
        raise ConfigurationError(f"verify: {error}") from None
    _compare(folder / "privacy_statement.json", told)
    print(f"{account.rounds} rounds intended, {len(account.unfinished)} of them without a release.")
    print(statement.prose(told).split("\n\n")[0])


def _compare(path: Path, told: Mapping[str, Any]) -> None:
    """The stored statement must make the claim that the ledger makes."""
    if not path.is_file():
        print(f"{path} is not there: the run did not end.")
        return
    try:
        stored = json.loads(path.read_text())
        statement.validate(stored)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"verify: {path} is no privacy statement: {error}") from None
    for name, value in told.items():
        if name not in _ELSEWHERE and stored[name] != value:
            raise ConfigurationError(
                f"verify: {path} says {name}={stored[name]}, the ledger says {value}."
            )
