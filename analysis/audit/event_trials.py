"""Repeats the rounds of one event with a canary user and without: the strong threat model.

The adversary chooses the canary's update and that of every other user, knows all of them, and sees
every release of the event. The update goes through the mechanism's own coins, the clip rule of its
contract and its release. What the other users do is `Others`: silent ones show whether the canary
reaches their lanes, ones that oppose it whether its presence keeps another user out.

Coins dilute what a round shows. A bench with ``takes_part`` plays events in which one unit of the
canary takes part, in both worlds: then the claim is that of a Gaussian without sampling.
"""

from __future__ import annotations

import copy
import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from userdp.analysis.audit.options import Randomness
from userdp.analysis.audit.subject import OVERSHOOT, Subject, fitting, signs
from userdp.server.accounting import RoundEvent
from userdp.server.mechanisms.base import RECORD_SLOT, Mechanism, Release
from userdp.sim.common import rng
from userdp.sim.protocol.cohort_sum import CohortSum
from userdp.sim.protocol.contract import Assignment, Contract

CANARY = 0  # its position among the declared users
_SHIFTS = 8  # pairs of worlds that show what the canary moves
_MOST_TRIES = 1000  # of events, until one has the canary take part with one unit
_MOST_PAIRS = 20000  # that are tried to find them


class Others(enum.Enum):
    """The updates of all other users before the clip."""

    SILENT = "others are silent"  # zero
    OPPOSED = "others oppose it"  # the canary's, with the other sign
    DIVIDED = "others are divided"  # across the canary's, one half against the other

    def rows(self, count: int, direction: np.ndarray) -> np.ndarray:
        """(count, D) float32 of norm 0 or 1, for the canary's ``direction`` (D,)."""
        sign = -1.0 if self is Others.OPPOSED else 0.0
        rows = np.repeat(np.float32(sign) * direction[None], count, 0)
        if self is Others.DIVIDED:
            across = direction.copy()
            across[::2] *= -1
            rows[::2], rows[1::2] = across, -across
        return rows


@dataclass(kw_only=True)
class Played:
    """What one event published, and figures of it that only the auditor sees."""

    figures: list[float] = field(default_factory=list)  # published, along the canary's direction
    totals: list[np.ndarray] = field(default_factory=list)  # sums before noise
    units: list[int] = field(default_factory=list)  # of the canary, each counted once
    noise_square: float = 0.0  # of the first release across the direction, in its stated std
    noise_count: int = 0


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A subject, the canary's direction, and what the other users do."""

    subject: Subject
    direction: np.ndarray  # (D,) float32 of norm 1
    others: Others
    takes_part: bool = False  # one unit of the canary takes part in the event, in both worlds
    shift: float | None = None  # of the sum, over C, measured elsewhere; None: through the clip
    known: dict[Any, CohortSum] = field(default_factory=dict)  # clipped sums by what they are of

    @classmethod
    def of(
        cls,
        subject: Subject,
        dimension: int,
        others: Others,
        randomness: Randomness,
        *,
        takes_part: bool = False,
    ) -> Bench:
        """A bench with a random direction."""
        direction = signs(fitting(dimension), 1, randomness.own("direction"))[0]
        return cls(subject=subject, direction=direction, others=others, takes_part=takes_part)

    @property
    def event(self) -> RoundEvent:
        """The event that is declared for what this bench plays."""
        if not self.takes_part:
            return self.subject.event
        return replace(
            self.subject.event,
            sampling_rate=1.0,
            group_size=1,
            population=None,
            cohort_cap=None,
        )

    def play(self, stream: rng.SecretStream, *, canary: bool) -> Played:
        """One event of a fresh mechanism; where the canary must take part, played until it does.

        Args:
            stream: of coins and noise.
            canary: whether the canary has an update; its coin is tossed in either world.
        """
        for _ in range(_MOST_TRIES):
            played = self._played(stream, canary=canary)
            if not self.takes_part or sum(played.units) == 1:
                break
        return played

    def _played(self, stream: rng.SecretStream, *, canary: bool) -> Played:
        mechanism, played = copy.deepcopy(self.subject.mechanism), Played()
        for number in range(1, self.subject.period + 1):
            assignment = self._drawn(mechanism, stream, number)
            cohort = self._cohort(mechanism, number, assignment, canary, played)
            release = mechanism.release(cohort, stream, number)
            self._note(mechanism, release, played, first=number == 1)
            mechanism = mechanism.after(release)
            if release.halted:
                break
        width = len(played.figures) // max(1, len(played.totals))
        played.figures += [0.0] * (width * (self.subject.period - len(played.totals)))
        return played

    def _drawn(self, mechanism: Mechanism, stream: rng.SecretStream, number: int) -> Assignment:
        """The cohort; with one unit of the canary where it must take part and the coins allow it.

        In a period of several rounds the mechanism alone says when it can take part. Independent
        coins of other positions have the same law given the canary's, so that it can be put in.
        """
        assignment = self.subject.drawn(mechanism, stream, number)
        if not self.takes_part or self.subject.period > 1 or (assignment.users == CANARY).any():
            return assignment
        slots = assignment.slots
        if mechanism.unit == RECORD_SLOT:
            slots = np.concatenate([[0], slots])
        return Assignment(np.concatenate([[CANARY], assignment.users]), slots)

    def _cohort(
        self,
        mechanism: Mechanism,
        number: int,
        assignment: Assignment,
        canary: bool,
        played: Played,
    ) -> CohortSum:
        mine = assignment.users == CANARY
        hits = int(mine.sum())
        slots = assignment.slots[mine] if len(assignment.slots) else np.zeros(min(hits, 1))
        played.units.append(len(np.unique(slots)))
        contract = self.subject.contract(mechanism, number)
        cohort = self._sum(contract, hits * canary, len(mine) - hits)
        played.totals.append(cohort.total)
        return cohort

    def _sum(self, contract: Contract, mine: int, others: int) -> CohortSum:
        """The clipped sum of so many units of the canary and of others; computed once for each."""
        key = (replace(contract, round=0), mine, others)
        if key not in self.known:
            canary = np.repeat(self.direction[None], mine, 0)
            rows = np.concatenate([canary, self.others.rows(others, self.direction)])
            rows *= np.float32(OVERSHOOT * contract.clip_norm)
            cohort = self.subject.clipped(rows, contract)
            if self.shift is not None:
                moved = self.shift * contract.clip_norm * mine * self.direction.astype(np.float64)
                if contract.grid:
                    moved = np.trunc(moved / contract.grid) * contract.grid
                cohort = replace(cohort, total=moved)
            self.known[key] = cohort
        known = self.known[key]
        return replace(known, total=known.total.copy())  # a mechanism may change it

    def _note(self, mechanism: Mechanism, release: Release, played: Played, first: bool) -> None:
        """Project what the release publishes; the mean is in units of C on the sum."""
        direction = self.direction.astype(np.float64)
        along = float(direction @ release.mean)
        scale = mechanism.expected_units / mechanism.clip_norm
        played.figures.append(along * scale)
        if release.unclipped_fraction is not None:
            played.figures.append(release.unclipped_fraction * mechanism.expected_units)
        played.figures += [release.released[name] for name in sorted(release.released)]
        if first and not release.halted and self.others is not Others.DIVIDED:
            across = release.mean - along * direction
            std = release.noise_std
            played.noise_square = float(across @ across) / std**2 if std else 0.0
            played.noise_count = len(across) - 1


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What the canary moves, without noise: from pairs of worlds with the same coins and noise."""

    shift: np.ndarray  # (figures,) mean over events that the canary took part in
    sensitivity: float  # largest change of a sum by one of the canary's units, over C
    pairs: int


def moved(bench: Bench, randomness: Randomness) -> Moved:
    """Play pairs of worlds until the canary took part in some; zero shift where it never does."""
    shifts: list[np.ndarray] = []
    largest, clip_norm = 0.0, bench.subject.mechanism.clip_norm
    pair = 0
    for pair in range(1, _MOST_PAIRS + 1):
        inside, outside = (
            bench.play(randomness.paired("pair", pair), canary=canary) for canary in (True, False)
        )
        if not any(inside.units):
            continue
        shifts.append(np.array(inside.figures) - np.array(outside.figures))
        largest = max(largest, _sensitivity(inside, outside) / clip_norm)
        if len(shifts) == _SHIFTS:
            break
    if not shifts:
        shifts = [np.zeros(len(outside.figures))]
    return Moved(shift=np.mean(shifts, axis=0), sensitivity=largest, pairs=pair)


def _sensitivity(inside: Played, outside: Played) -> float:
    """Change of the sums, over the number of the canary's units in the round."""
    changes = [
        float(np.linalg.norm(one - other)) / max(1, units)
        for one, other, units in zip(inside.totals, outside.totals, inside.units, strict=True)
    ]
    return max(changes)


def weights(shift: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """(figures,) the linear score that tells the worlds apart best, if noise is normal.

    Args:
        shift: (figures,) of the canary.
        outside: (trials, figures) without the canary.
    """
    covariance = np.atleast_2d(np.cov(outside, rowvar=False))
    floor = 1e-12 * (shift**2 + np.diag(covariance)) + 1e-300
    if not shift.any():
        return np.ones_like(shift)
    solved: np.ndarray = np.linalg.solve(covariance + np.diag(floor), shift)
    return solved


def noise_ratio(played: Sequence[tuple[float, int]]) -> tuple[float, int]:
    """Sum of the squares of noise in its stated std, and how many numbers they are of."""
    return math.fsum(square for square, _ in played), sum(count for _, count in played)
