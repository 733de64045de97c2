"""The same round without clip and without noise: the baseline, which is NOT PRIVATE and says so."""

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
    """User-wise averaging over the same Poisson cohorts; epsilon is infinite."""

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
        return 0.0

    def event(self) -> RoundEvent:
        raise ValueError("A round without noise has no privacy event.")

    def ledger_event(self) -> Mapping[str, Any]:
        return {"noise_multiplier": 0.0, "sampling_rate": self.sampling_rate, "group_size": 1}

    def release(self, cohort: CohortSum, stream: rng.SecretStream, number: int) -> Release:
        return Release(cohort.total / self.expected_units, noise_std=0.0)

    def console(self) -> str:
        return f"none: the mean over {self.records_per_user or 'all'} records a user"
