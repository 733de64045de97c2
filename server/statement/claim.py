"""What an accountant says of the rounds in a ledger: the figures that a statement claims."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from userdp.server import accounting
from userdp.server.accounting import accountants
from userdp.server.mechanisms.base import RECORD_SLOT

_LEAST_DELTA = 1e-11  # below, double precision certifies nothing
_SHARES = (1, 0.1, 0.01)  # of the run's delta: further deltas that a statement tells epsilon at


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What an accountant says of the composition in a ledger, at the header's delta."""

    epsilon: float  # upper value; infinite where there is none
    epsilon_lower: float
    accountant: str
    accountant_version: str
    certified: bool  # False for estimates (central limit, Edgeworth): no claim rests on those
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
    """The account of a ledger's composition, exact at its header's delta.

    Args:
        header: the ledger's.
        spent: events as the ledger stores them, and in how many rounds each was intended.

    Raises:
        KeyError: the header lacks a field.
        ValueError: the accountant refuses an event.
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
        infinite = {"epsilon": math.inf, "epsilon_lower": math.inf}
        return Claim(**infinite, epsilon_at_deltas={}, **accountant)
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
