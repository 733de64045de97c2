"""One round's mechanism: cohort, sensitivity, noise and accounting event, which cannot disagree.

Everything a round's privacy rests on is derived here from six public numbers. There is no second
place to type a sampling rate, a denominator or a noise level.

Formal guarantees, for a `Mechanism` whose clients obey its clip norm C:
- a unit enters a round at most once, with an independent coin of probability q (`draw`);
- adding or removing one unit moves the sum by at most C, so the release is
  ``(sum + N(0, (z C)^2 I)) / m`` at sensitivity C/m, whatever the realised cohort, the empty one
  included;
- the denominator m is a constant of the configuration.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from server import sampling
from server.accounting import RoundEvent
from server.ledger import Query
from sim import rng
from sim.errors import ConfigurationError
from sim.wire import Assignment


@dataclass(frozen=True, kw_only=True)
class Mechanism(ABC):
    """Public parameters of a subsampled Gaussian mechanism over privacy units."""

    unit: ClassVar[str]  # what one clip bounds: "user" or "record_slot"
    private: ClassVar[bool] = True

    users: int  # N, declared
    cohort: float  # expected users' worth of gradients in a round
    records_per_user: int  # k; 0 takes all of a user's records (user-wise only)
    clip_norm: float  # C
    noise_multiplier: float  # z

    def __post_init__(self) -> None:
        if self.users < 1:
            raise ConfigurationError(f"privacy.users={self.users}: must be at least 1.")
        if not 0 < self.cohort <= self.users:
            raise ConfigurationError(
                f"cohort={self.cohort:g}: must be above 0 and at most the {self.users} "
                "declared users."
            )
        if self.records_per_user < 0:
            raise ConfigurationError(
                f"strategy.records_per_user={self.records_per_user}: must be at least 1, or all."
            )
        if not self.clip_norm > 0:
            raise ConfigurationError(f"strategy.clip_norm={self.clip_norm}: must be positive.")
        self._check_noise()

    def _check_noise(self) -> None:
        # Below 2^-32 of the sum's size, float64 noise would round away in the sum it protects.
        if not (math.isfinite(self.noise_multiplier) and math.isfinite(self.clip_norm)):
            raise ConfigurationError("strategy.clip_norm and the noise must be finite.")
        if not self.noise_multiplier > self.expected_units * 2.0**-32:
            raise ConfigurationError(
                f"privacy.noise_multiplier={self.noise_multiplier}: must be positive "
                "(strategy=non_private trains without noise, and says so)."
            )

    @property
    def sampling_rate(self) -> float:
        """q, of every coin."""
        return self.cohort / self.users

    @property
    def group_size(self) -> int:
        """Units that one user owns, each with its own coin."""
        return 1

    @property
    def expected_units(self) -> float:
        """m, the denominator."""
        return self.cohort * self.group_size

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on the sum, a coordinate."""
        return self.noise_multiplier * self.clip_norm

    def event(self) -> RoundEvent:
        """What one round costs."""
        return RoundEvent(
            sampling_rate=self.sampling_rate,
            noise_multiplier=self.noise_multiplier,
            group_size=self.group_size,
        )

    def ledger_event(self) -> Mapping[str, Any]:
        return self.event().to_dict()

    def queries(self) -> Sequence[Query]:
        """The Gaussian queries of a round's joint release."""
        return [Query(name="update", sensitivity=self.clip_norm, noise_std=self.noise_std)]

    @abstractmethod
    def draw(self, stream: rng.SecretStream) -> Assignment:
        """The cohort of one round: one coin per unit position, over declared positions."""

    def release(self, clipped_sum: np.ndarray, stream: rng.SecretStream) -> np.ndarray:
        """Noised mean (D,) float64 of a sum of clipped updates (D,).

        Noise is drawn and added in float64 on the CPU, once, here. Floating-point noise is not the
        real Gaussian (Mironov, CCS 2012): the statement names it as a limit.
        """
        noise = self.noise_std * rng.standard_normal(stream, len(clipped_sum))
        return (clipped_sum.astype(np.float64) + noise) / self.expected_units

    def _heads(self, stream: rng.SecretStream) -> np.ndarray:
        return sampling.poisson_positions(stream, self.sampling_rate, self.users * self.group_size)
