"""What one round releases, as the accountant sees it: Poisson coins and one Gaussian."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from dp_accounting import dp_event


@dataclass(frozen=True, kw_only=True)
class RoundEvent:
    """One noised sum over units that entered by independent coins.

    A user owns ``group_size`` slots; each slot has its own coin and its own clip. With or without the
    user, the output along the worst direction is ``sum_i Binomial(k, q)(i) N(i, z^2)`` against
    ``N(0, z^2)`` in units of the clip norm (Ganesh, arXiv 2401.10294); ``k = 1`` is the Poisson
    subsampled Gaussian mechanism. Adjacency: add or remove one user.

    Raises:
        ValueError: a field is outside its range or not finite.
    """

    sampling_rate: float  # q: probability of a slot's coin
    noise_multiplier: float  # z: noise standard deviation on the sum, over the clip norm
    group_size: int = 1  # k: slots of one user

    def __post_init__(self) -> None:
        if not 0 < self.sampling_rate <= 1:  # also refuses NaN
            raise ValueError(f"Expected 0 < sampling_rate <= 1, got {self.sampling_rate!r}.")
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0):
            raise ValueError(
                f"Expected a finite noise_multiplier > 0, got {self.noise_multiplier!r}."
            )
        if type(self.group_size) is not int or self.group_size < 1:
            raise ValueError(f"Expected a whole group_size >= 1, got {self.group_size!r}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the ledger."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RoundEvent:
        """Inverse of :meth:`to_dict`; every field must be present and no other.

        Raises:
            ValueError: a field is missing, unknown or out of range.
        """
        expected = {field.name for field in fields(cls)}
        if set(values) != expected:
            raise ValueError(f"Expected an event with {sorted(expected)}, got {sorted(values)}.")
        return cls(**values)

    def single_slot(self) -> RoundEvent:
        """The same round as one slot sees it."""
        return replace(self, group_size=1)

    def hits(self) -> np.ndarray:
        """(group_size + 1,) probability that so many of the user's coins come up."""
        k, q = self.group_size, self.sampling_rate
        if q == 1:
            return np.eye(k + 1)[k]
        logs = [
            math.log(math.comb(k, i)) + i * math.log(q) + (k - i) * math.log1p(-q)
            for i in range(k + 1)
        ]
        return np.exp(logs)

    def dp_event(self) -> dp_event.DpEvent:
        """The round in dp_accounting's vocabulary."""
        from dp_accounting import dp_event

        if self.group_size == 1:
            gaussian = dp_event.GaussianDpEvent(self.noise_multiplier)
            return dp_event.PoissonSampledDpEvent(self.sampling_rate, gaussian)
        hits = self.hits()
        return dp_event.MixtureOfGaussiansDpEvent(
            self.noise_multiplier, list(range(len(hits))), list(hits / hits.sum())
        )


Composition: TypeAlias = Sequence[tuple[RoundEvent, int]]  # events, and how often each happened


def merged(composition: Composition) -> list[tuple[RoundEvent, int]]:
    """Each event once, with its total count; events that never happened are left out.

    Raises:
        ValueError: a count is negative or not whole.
    """
    counts: dict[RoundEvent, int] = {}
    for event, count in composition:
        if type(count) is not int or count < 0:
            raise ValueError(f"Expected a whole number of rounds >= 0, got {count!r}.")
        if count:
            counts[event] = counts.get(event, 0) + count
    return list(counts.items())
