"""User-wise averaging without clip and without noise: a baseline that is NOT PRIVATE."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from userdp.server.accounting import RoundEvent
from userdp.server.mechanisms.base import Release
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.common import rng
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.protocol.cohort_sum import CohortSum


@dataclass(frozen=True, kw_only=True)
class NonPrivate(UserWise):
    """User-wise averaging over the same Poisson cohorts; epsilon is infinite.

    Raises:
        ConfigurationError: as `UserWise`, or the clip norm shall adapt.
    """

    private: ClassVar[bool] = False
    compared: ClassVar[bool] = False

    clip_norm: float = math.inf
    noise_multiplier: float = 0.0

    def _check_noise(self) -> None:
        if self.adaptive is not None:
            raise ConfigurationError(
                f"strategy.clip_quantile={self.adaptive.quantile}: strategy=non_private clips "
                "nothing; leave it out."
            )

    @property
    def noise_std(self) -> float:
        """0: the sum is released as it is."""
        return 0.0

    def event(self) -> RoundEvent:
        """Always raises.

        Raises:
            ValueError: a round without noise has no event.
        """
        raise ValueError("A round without noise has no privacy event.")

    def ledger_event(self) -> Mapping[str, Any]:
        """An event of noise multiplier 0, which marks the ledger as not private."""
        return {"noise_multiplier": 0.0, "sampling_rate": self.sampling_rate, "group_size": 1}

    def release(self, cohort: CohortSum, stream: rng.SecretStream, number: int) -> Release:
        """The exact sum over m; nothing is drawn from the stream."""
        return Release(cohort.total / self.expected_units, noise_std=0.0)

    def console(self) -> str:
        """One line for the terminal: what a round does."""
        return f"none: the mean over {self.records_per_user or 'all'} records a user"
