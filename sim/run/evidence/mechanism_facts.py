"""Compares a ledger with the mechanism that its header describes: event, queries and target."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from userdp.server import accounting
from userdp.server.ledger.ledger import Account
from userdp.server.mechanisms import header_facts
from userdp.server.mechanisms.base import Mechanism
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.run.evidence import findings

# Shares of the target within which the epsilon of calibrated noise lies: the accountant's two ends
# may be 1 % apart, and another version of it may have found the noise.
_LEAST_SHARE, _MOST_SHARE = 0.98, 1.01


def build(path: Path, header: Mapping[str, Any]) -> Mechanism:
    """The mechanism of a header.

    Args:
        path: of the ledger, for messages.
        header: of the ledger; where its format has no cohort and options, with those of the stored
            configuration.

    Raises:
        ConfigurationError: the header lacks a field, or describes no mechanism.
    """
    try:
        return header_facts.mechanism(header)
    except KeyError as error:
        raise ConfigurationError(f"verify: {path} lacks {error} in its header.") from None
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise ConfigurationError(f"verify: {path}: its header is no mechanism: {error}") from None


def check(path: Path, account: Account, header: Mapping[str, Any], mechanism: Mechanism) -> None:
    """Compare every entry of a ledger with the mechanism of its header.

    Args:
        path: of the ledger, for messages.
        account: of the ledger.
        header: as `build` takes it.
        mechanism: from `build`.

    Raises:
        ConfigurationError: the header or a round contradicts the mechanism.
    """
    problems = findings.contradictions(
        comparable(mechanism, header),
        comparable(mechanism, header_facts.of(mechanism)),
        source="its header",
        other="of its mechanism",
    )
    findings.refuse_unless_empty(path, problems)
    findings.refuse_unless_empty(path, _rounds(account, mechanism))
    findings.refuse_unless_empty(path, _target(header, mechanism))


def comparable(mechanism: Mechanism, header: Mapping[str, Any]) -> dict[str, Any]:
    """The header without those details that depend on the machine's numerical libraries."""
    details = {
        name: value
        for name, value in header["mechanism_details"].items()
        if name not in mechanism.machine_details
    }
    return {**header, "mechanism_details": details}


def _rounds(account: Account, mechanism: Mechanism) -> list[str]:
    """What contradicts the mechanism in the intents, of which the first has the header's C."""
    problems: list[str] = []
    for place, (number, intent) in enumerate(account.of_kind("intent").items()):
        stored = intent["queries"]
        expected = mechanism if place == 0 else None
        wanted = (
            header_facts.queries(mechanism, stored) if expected is None else mechanism.queries()
        )
        told = {"queries": [list(query.values()) for query in stored]}
        right = {"queries": [list(query.to_dict().values()) for query in wanted]}
        problems += findings.contradictions(
            told, right, source=f"round {number}", other="of the mechanism"
        )
        if problems:
            break
    return problems


def _target(header: Mapping[str, Any], mechanism: Mechanism) -> list[str]:
    """Whether the noise is far from what the target asks for, over all planned rounds."""
    target = header["epsilon_target"]
    if target is None or not mechanism.private:
        return []
    events = mechanism.event_count(header["rounds"])
    epsilon = accounting.epsilon(
        [(mechanism.event(), events)],
        header["delta"],
        accountant=header["accountant"],
        group_bound=header["group_bound"] or "mixture",
    ).upper
    if math.isfinite(epsilon) and _LEAST_SHARE * target <= epsilon <= _MOST_SHARE * target:
        return []
    return [
        f"noise_multiplier {header['event']['noise_multiplier']} costs epsilon {epsilon:.6g} over "
        f"{header['rounds']} rounds, but the noise was calibrated to {target}"
    ]
