"""Recomputes the claim of a run from its ledger alone: the command ``userdp verify RUN``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from userdp.server.ledger import ledger
from userdp.server.ledger.ledger import Account
from userdp.server.statement import claim, prose, schema, statement
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.run_folder.layout import RunFolder

# Fields of a statement that do not follow from the ledger.
_ELSEWHERE = ("not_covered", "sweep", "accountant_version")


@dataclass(frozen=True, kw_only=True)
class Verified:
    """The claim that follows from a run's ledger."""

    account: Account
    statement: Mapping[str, Any]  # rebuilt from the ledger
    stored: bool  # whether the run has a statement; if so, it makes the same claim

    def text(self) -> str:
        """The text that the command prints."""
        rounds, unfinished = self.account.rounds, len(self.account.unfinished)
        lines = [
            f"{rounds} rounds intended, {unfinished} of them without a release.",
            prose.text(self.statement).split("\n\n")[0],
        ]
        missing = ["There is no privacy statement: the run did not end."]
        return "\n".join([*([] if self.stored else missing), *lines])


def verify(folder: Path) -> Verified:
    """Check the ledger of the run in ``folder``, and its statement against it.

    Raises:
        ConfigurationError: there is no such run, its chain is broken, or its statement makes
            another claim than the ledger does.
    """
    run = RunFolder(folder)
    try:
        account = ledger.verify(run.ledger)
        facts = statement.build(
            account.header,
            account.spent,
            claim.from_ledger(account.header, account.spent),
            ledger_hash=account.head,
            codes=account.codes,
        )
    except OSError as error:
        raise ConfigurationError(f"verify: {run.ledger}: {error.strerror}.") from None
    except KeyError as error:
        raise ConfigurationError(f"verify: {run.ledger} lacks {error} in its header.") from None
    except ValueError as error:  # a LedgerError, or a header that is no run's
        raise ConfigurationError(f"verify: {error}") from None
    return Verified(account=account, statement=facts, stored=_matches(run.statement, facts))


def _matches(path: Path, facts: Mapping[str, Any]) -> bool:
    """Whether there is a stored statement; refuses one with another claim than the ledger's."""
    if not path.is_file():
        return False
    try:
        stored = json.loads(path.read_text())
        schema.validate(stored)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"verify: {path} is no privacy statement: {error}") from None
    for name, value in facts.items():
        if name not in _ELSEWHERE and stored[name] != value:
            raise ConfigurationError(
                f"verify: {path} says {name}={stored[name]}, the ledger says {value}."
            )
    return True
