"""What a strategy was asked for: common options, and those that only some mechanisms have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.field_types import Closed, Number, Whole

# Handed to the mechanism's field of the same name where they are given; conf/strategy/ lists which
# strategy has which.
OWN = (
    *("cohort_max", "bands", "objective"),
    *("tau", "min_weight", "test_share", "test_statistic", "on_failure"),
)


@dataclass(frozen=True, kw_only=True)
class Strategy(Closed):
    name: str
    mechanism: str  # dotted path of the class
    records_per_user: Whole | Literal["all"]
    clip_norm: Number | None
    local_steps: Whole
    local_lr: Number
    resample: bool
    clip_quantile: Number | None = None  # given: the clip norm adapts, from clip_norm on
    clip_learning_rate: Number = 0.2
    clip_bit_noise: Number | None = None
    cohort_max: Whole | None = None
    bands: Whole | None = None
    objective: str | None = None
    tau: Number | None = None
    min_weight: Number | None = None
    test_share: Number | None = None
    test_statistic: str | None = None
    on_failure: str | None = None

    def __post_init__(self) -> None:
        if self.clip_quantile is None and self.clip_bit_noise is not None:
            raise ConfigurationError(
                f"strategy.clip_bit_noise={self.clip_bit_noise}: needs "
                "strategy.clip_quantile beside it."
            )
        if self.records_per_user != "all" and self.records_per_user < 1:
            raise ConfigurationError(
                f"strategy.records_per_user={self.records_per_user}: must be 1 or more, or all."
            )
        if self.local_steps < 1:
            raise ConfigurationError(f"strategy.local_steps={self.local_steps}: must be 1 or more.")
        if not 0 < self.local_lr < math.inf:
            raise ConfigurationError(
                f"strategy.local_lr={self.local_lr}: must be positive and finite."
            )

    @property
    def k(self) -> int:
        """Records per user; 0 for all."""
        return 0 if self.records_per_user == "all" else self.records_per_user

    def own(self) -> Mapping[str, Any]:
        """The options given that only some mechanisms have."""
        return {name: value for name in OWN if (value := getattr(self, name)) is not None}
