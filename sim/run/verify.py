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
from userdp.sim.common import foreign_code
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.common.foreign_code import CodeNotLoadedError
from userdp.sim.run_folder.layout import RunFolder

# Fields of a statement that do not follow from the ledger.
_ELSEWHERE = ("sweep", "accountant_version")
_OPEN = "not_covered"  # may hold more than the ledger shows
_OF_MECHANISM = ("assumptions", "released")  # so may these, without the mechanism's code


@dataclass(frozen=True, kw_only=True)
class Verified:
    """The claim that follows from a run's ledger."""

    account: Account
    statement: Mapping[str, Any]  # rebuilt from the ledger
    stored: bool  # whether the run has a statement; if so, it makes the same claim
    loaded: bool = True  # whether the code of the mechanism was there to describe it

    def text(self) -> str:
        """The text that the command prints."""
        rounds, unfinished = self.account.rounds, len(self.account.unfinished)
        lines = [
            f"{rounds} rounds intended, {unfinished} of them without a release.",
            prose.claim(self.statement),
        ]
        missing = ["There is no privacy statement: the run did not end."]
        return "\n".join([*([] if self.stored else missing), *lines, *self._unloaded()])

    def _unloaded(self) -> list[str]:
        name = self.statement["strategy"]
        if self.loaded:
            return []
        package = name.partition(".")[0]
        return [
            f"Mechanism of another package: {name}; its code was not loaded, and what it says of "
            f"itself was not compared ({foreign_code.VARIABLE}={package} loads it)."
        ]


def verify(folder: Path) -> Verified:
    """Check the ledger of the run in ``folder``, and its statement against it.

    Code of another package is loaded only where `foreign_code.VARIABLE` allows it.

    Raises:
        ConfigurationError: there is no such run, its chain is broken, or its statement makes
            another claim than the ledger does.
    """
    with foreign_code.named_by_a_run_folder():
        return _verified(RunFolder(folder))


def _verified(run: RunFolder) -> Verified:
    try:
        account = ledger.verify(run.ledger)
        facts = statement.build(
            account.header,
            account.spent,
            claim.from_ledger(account.header, account.spent),
            ledger_hash=account.head,
            codes=account.codes,
        )
    except CodeNotLoadedError as error:  # without its accountant there is no claim to compare
        raise ConfigurationError(f"verify: {run.ledger}: {error}") from None
    except OSError as error:
        raise ConfigurationError(f"verify: {run.ledger}: {error.strerror}.") from None
    except KeyError as error:
        raise ConfigurationError(f"verify: {run.ledger} lacks {error} in its header.") from None
    except ValueError as error:  # a LedgerError, or a header that is no run's
        raise ConfigurationError(f"verify: {error}") from None
    loaded = foreign_code.may_load(facts["strategy"])
    stored = _matches(run.statement, facts, loaded=loaded)
    return Verified(account=account, statement=facts, stored=stored, loaded=loaded)


def _matches(path: Path, facts: Mapping[str, Any], *, loaded: bool) -> bool:
    """Whether there is a stored statement; refuses one with another claim than the ledger's.

    Args:
        path: of the statement.
        facts: rebuilt from the ledger.
        loaded: whether the mechanism added its own sentences to ``facts``.
    """
    if not path.is_file():
        return False
    try:
        stored = json.loads(path.read_text())
        schema.validate(stored)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"verify: {path} is no privacy statement: {error}") from None
    open_lists = (_OPEN, *([] if loaded else _OF_MECHANISM))
    for name, value in facts.items():
        same = stored[name] == value
        if name in open_lists:
            same = all(item in stored[name] for item in value)
        if name not in _ELSEWHERE and not same:
            raise ConfigurationError(
                f"verify: {path} says {name}={stored[name]}, the ledger says {value}."
            )
    return True
