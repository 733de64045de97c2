"""The event of one round: Poisson sampling, perhaps a capped cohort, and one Gaussian sum.

>>> event = RoundEvent(sampling_rate=0.1, noise_multiplier=2.0, group_size=2)
>>> event.hits().round(2).tolist()
[0.81, 0.18, 0.01]
>>> merged([(event, 3), (event, 4)]) == [(event, 7)]
True
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from dp_accounting import dp_event

FloatArray: TypeAlias = NDArray[np.float64]

_PLAIN = ("sampling_rate", "noise_multiplier", "group_size")
_CAP = ("population", "cohort_cap")  # both or neither
_FAILURE = "failure_probability"  # left out of the ledger where it is 0


@dataclass(frozen=True, kw_only=True)
class RoundEvent:
    """One noised sum over units, each sampled independently with the same probability.

    A user owns ``group_size`` slots; each slot is sampled and clipped by itself. With the user, the
    output along the worst direction is ``sum_i Binomial(k, q)(i) N(i, z^2)`` in units of the clip
    norm, without the user ``N(0, z^2)`` (Ganesh, arXiv 2401.10294); ``k = 1`` is the Poisson
    subsampled Gaussian mechanism. Adjacency: add or remove one user.

    With a ``cohort_cap``, a uniformly random subset of that size takes part where more of the
    ``population`` users were sampled (truncated Poisson sampling, arXiv 2508.15089). Adjacency is
    then zero-out: one user's records are emptied, and the user is still sampled.

    With a ``failure_probability`` b, the round is within total variation b, with the user and
    without, of one whose privacy cost is that of the other fields (the concentration test,
    docs/concentration.md).

    Raises:
        ValueError: a field is outside its range or not finite.
    """

    sampling_rate: float  # q: probability that a slot is sampled
    noise_multiplier: float  # z: noise standard deviation on the sum, over the clip norm
    group_size: int = 1  # k: slots of one user
    population: int | None = None  # N: users, given with a cohort_cap only
    cohort_cap: int | None = None  # largest number of users in a round
    failure_probability: float = 0.0  # of a round's guarantee, with the user or without

    def __post_init__(self) -> None:
        if not 0 < self.sampling_rate <= 1:  # also refuses NaN
            raise ValueError(f"Expected 0 < sampling_rate <= 1, got {self.sampling_rate!r}.")
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0):
            raise ValueError(
                f"Expected a finite noise_multiplier > 0, got {self.noise_multiplier!r}."
            )
        if type(self.group_size) is not int or self.group_size < 1:
            raise ValueError(f"Expected a whole group_size >= 1, got {self.group_size!r}.")
        if (self.population, self.cohort_cap) != (None, None):
            self._check_cap()
        if not 0 <= self.failure_probability < 1:
            raise ValueError(f"Expected 0 <= {_FAILURE} < 1, got {self.failure_probability!r}.")
        if self.failure_probability and (self.group_size != 1 or self.cohort_cap is not None):
            raise ValueError(f"{_FAILURE} > 0 is analysed for plain rounds of one slot a user.")

    def _check_cap(self) -> None:
        for name in _CAP:
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"Expected whole {' and '.join(_CAP)} >= 1, got {name}={value!r}.")
        if self.group_size != 1:
            raise ValueError(f"A capped cohort has one slot a user, got {self.group_size=}.")

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON values, for the ledger; a cap and a failure only where there is one."""
        values = {k: v for k, v in asdict(self).items() if v is not None}
        if not self.failure_probability:
            del values[_FAILURE]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RoundEvent:
        """The event that :meth:`to_dict` described.

        Raises:
            ValueError: a field is missing, unknown or out of range.
        """
        names = {*_PLAIN, *_CAP} if set(_CAP) & set(values) else set(_PLAIN)
        names |= {_FAILURE} & set(values)
        if set(values) != names:
            raise ValueError(f"Expected an event with {sorted(names)}, got {sorted(values)}.")
        return cls(**values)

    def single_slot(self) -> RoundEvent:
        """The same round with one slot a user."""
        return replace(self, group_size=1)

    def uncapped(self) -> RoundEvent:
        """The same round without a cap."""
        return replace(self, population=None, cohort_cap=None)

    def unfailing(self) -> RoundEvent:
        """The same round as if its guarantee always held."""
        return replace(self, failure_probability=0.0)

    def hits(self) -> FloatArray:
        """(group_size + 1,) probability that 0, 1, ... of the user's slots are sampled.

        Raises:
            ValueError: the cohort is capped, so that sampling alone does not decide who takes part,
                or the guarantee may fail, which no mixture describes.
        """
        if self.cohort_cap is not None:
            raise ValueError(f"cohort_cap={self.cohort_cap}: a capped round is no plain mixture.")
        if self.failure_probability:
            raise ValueError(
                f"{_FAILURE}={self.failure_probability}: a failing round is no mixture."
            )
        k, q = self.group_size, self.sampling_rate
        if q == 1:
            always_all: FloatArray = np.eye(k + 1)[k]
            return always_all
        logs = [
            math.log(math.comb(k, i)) + i * math.log(q) + (k - i) * math.log1p(-q)
            for i in range(k + 1)
        ]
        return np.exp(logs)

    def dp_event(self) -> dp_event.DpEvent:
        """The round as an event of dp_accounting.

        Raises:
            ValueError: its guarantee may fail, which no event of dp_accounting describes.
        """
        from dp_accounting import dp_event

        if self.failure_probability:
            raise ValueError(f"{_FAILURE}={self.failure_probability}: no event of dp_accounting.")
        if self.population is not None and self.cohort_cap is not None:
            return dp_event.TruncatedSubsampledGaussianDpEvent(
                dataset_size=self.population,
                sampling_probability=self.sampling_rate,
                truncated_batch_size=self.cohort_cap,
                noise_multiplier=self.noise_multiplier,
            )
        if self.group_size == 1:
            gaussian = dp_event.GaussianDpEvent(self.noise_multiplier)
            return dp_event.PoissonSampledDpEvent(self.sampling_rate, gaussian)
        hits = self.hits()
        return dp_event.MixtureOfGaussiansDpEvent(
            self.noise_multiplier, list(range(len(hits))), list(hits / hits.sum())
        )


Composition: TypeAlias = Sequence[tuple[RoundEvent, int]]  # events, and how often each occurred


def merged(composition: Composition) -> list[tuple[RoundEvent, int]]:
    """Each event once with its total count, in an order that does not depend on the order given.

    Events that never occurred are left out.

    Raises:
        ValueError: a count is negative or not whole.
    """
    counts: dict[RoundEvent, int] = {}
    for event, count in composition:
        if type(count) is not int or count < 0:
            raise ValueError(f"Expected a whole number of rounds >= 0, got {count!r}.")
        if count:
            counts[event] = counts.get(event, 0) + count
    return sorted(counts.items(), key=lambda item: repr(item[0]))
