"""Accounts for the rounds in a ledger: the certified figures that a statement claims."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from userdp.server import accounting
from userdp.server.accounting import accountants
from userdp.server.mechanisms.base import RECORD_SLOT

_LEAST_DELTA = 1e-11  # below it, nothing is certified in double precision
_SHARES = (1, 0.1, 0.01)  # shares of the run's delta: a statement gives epsilon at each


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Figures of an accountant for the composition in a ledger, at the header's delta.

    Raises:
        ValueError: the accountant only estimates, or the bounds contradict each other.
    """

    epsilon: float  # upper value; infinite without noise
    epsilon_lower: float
    accountant: str
    accountant_version: str
    certified: bool  # False for estimates (central limit, Edgeworth), which are refused
    epsilon_at_deltas: Mapping[float, float]  # delta -> upper value
    slot_epsilon: float | None = None  # the same with one slot per user

    def __post_init__(self) -> None:
        if not self.certified:
            raise ValueError(f"accountant={self.accountant!r} only estimates: it is no claim.")
        if not 0 <= self.epsilon_lower <= self.epsilon:
            raise ValueError(
                f"Expected 0 <= epsilon_lower <= epsilon, got {self.epsilon_lower}, {self.epsilon}."
            )


def from_ledger(header: Mapping[str, Any], spent: Sequence[tuple[Mapping[str, Any], int]]) -> Claim:
    """The claim for a ledger's composition, at its header's delta.

    Args:
        header: of the ledger.
        spent: each distinct event as the ledger stores it, and how many rounds intended it.

    Raises:
        ConfigurationError: there is no accountant of the header's name.
        KeyError: the header lacks a field.
        ValueError: the accountant does not accept an event.
    """
    name, delta = header["accountant"], header["delta"]
    accountant: dict[str, Any] = {
        "accountant": name,
        "accountant_version": accountants.claim_version(
            name, capped=header["cohort_cap"] is not None
        ),
        "certified": True,
    }
    if header["event"]["noise_multiplier"] == 0:
        return Claim(epsilon=math.inf, epsilon_lower=math.inf, epsilon_at_deltas={}, **accountant)
    composition = [
        (accounting.RoundEvent.from_dict(event), math.ceil(rounds / header["rounds_per_event"]))
        for event, rounds in spent
    ]
    deltas = [delta * share for share in _SHARES if delta * share >= _LEAST_DELTA]
    options = {"accountant": name, "group_bound": header["group_bound"] or "mixture"}
    figures = accounting.epsilon_at_deltas(composition, deltas, **options)
    slot = None
    if header["clipped_unit"] == RECORD_SLOT:
        slot = accounting.slot_epsilon(composition, delta, accountant=name).upper
    return Claim(
        epsilon=figures[delta].upper,
        epsilon_lower=figures[delta].lower,
        epsilon_at_deltas={
            at: figure.upper for at, figure in figures.items() if math.isfinite(figure.upper)
        },
        slot_epsilon=slot,
        **accountant,
    )
