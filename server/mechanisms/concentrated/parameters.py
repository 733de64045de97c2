"""Public parameters of the concentration test, and what follows from them; releases nothing.

Radius, threshold and the split of the noise of `userdp.server.mechanisms.concentrated.mechanism`; docs/concentration.md has the
proof that they are enough.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from scipy import special

from userdp.server import accounting
from userdp.server.accounting import RoundEvent
from userdp.server.mechanisms.base import SET_BY_RUN
from userdp.server.mechanisms.concentrated import statistic
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.common.errors import ConfigurationError

DELTA_SHARE = 0.01  # of delta, for the test's failures in all rounds
LEAST_TAU = 1e-4  # times C: below, float32 in the updates decides who is whose neighbour
RESOLUTION = 2.0**-52  # of the uniforms behind the noise: so far off its tail's probability may be
CHOICES = {
    "test_statistic": tuple(statistic.STATISTICS),
    "on_failure": ("fallback", "halt"),
}


@dataclass(frozen=True, kw_only=True)
class ConcentrationRule(UserWise):
    """User-wise cohorts and clip, and a noised test for how closely the updates agree."""

    keeps_rows: ClassVar[bool] = True
    compared: ClassVar[bool] = False

    tau: float | None = None  # radius; None: a fiftieth of the clip norm
    min_weight: float | None = None  # W_min; None: half of the expected cohort
    test_share: float = 0.05  # of 1/z^2, for the test
    test_statistic: str = "weight"  # W, or "pairs", t
    on_failure: str = "fallback"  # or "halt"
    failure_probability: float = field(default=0.0, metadata=SET_BY_RUN)  # of one round

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cohort_max is not None:
            raise ConfigurationError(
                f"strategy.cohort_max={self.cohort_max}: a capped cohort is not analysed for "
                "strategy=concentrated; leave it out."
            )
        if self.adaptive is not None:
            raise ConfigurationError(
                f"strategy.clip_quantile={self.adaptive.quantile}: strategy=concentrated keeps its "
                "clip norm; leave it out."
            )
        for name, allowed in CHOICES.items():
            if (value := getattr(self, name)) not in allowed:
                raise ConfigurationError(
                    f"strategy.{name}={value}: choose one of {', '.join(allowed)}."
                )
        self._check_numbers()

    def _check_numbers(self) -> None:
        if not LEAST_TAU * self.clip_norm <= self.radius < math.inf:
            raise ConfigurationError(
                f"strategy.tau={self.radius:g}: must be finite and at least "
                f"{LEAST_TAU * self.clip_norm:g}, a ten-thousandth of strategy.clip_norm."
            )
        if not statistic.LEAST_WEIGHT <= self.least_weight < math.inf:
            raise ConfigurationError(
                f"strategy.min_weight={self.least_weight:g}: must be finite and at least "
                f"{statistic.LEAST_WEIGHT:g}, for which the mean is bounded; take a larger "
                "min_weight or cohort."
            )
        if not 0 < self.test_share < 1:
            raise ConfigurationError(
                f"strategy.test_share={self.test_share}: must lie between 0 and 1."
            )

    @property
    def radius(self) -> float:
        """tau."""
        return self.clip_norm / 50 if self.tau is None else self.tau

    @property
    def least_weight(self) -> float:
        """W_min."""
        return self.expected_units / 2 if self.min_weight is None else self.min_weight

    @property
    def test_multiplier(self) -> float:
        """z_t."""
        return statistic.split(self.noise_multiplier, self.test_share)[0]

    @property
    def update_multiplier(self) -> float:
        """z_g, of either branch."""
        return statistic.split(self.noise_multiplier, self.test_share)[1]

    @property
    def test_sensitivity(self) -> float:
        return statistic.STATISTICS[self.test_statistic]

    @property
    def mean_sensitivity(self) -> float:
        """L2 change of the mean by one user, where the test passed."""
        return statistic.MEAN_SHIFT * self.radius / self.least_weight

    @property
    def quantile(self) -> float:
        """h: standard deviations by which the threshold exceeds W_min."""
        return -float(special.ndtri(max(0.0, self.failure_probability - RESOLUTION)))

    @property
    def threshold(self) -> float:
        """What the noised statistic must reach."""
        return self.least_weight + self.test_sensitivity * self.test_multiplier * self.quantile

    def for_run(self, *, rounds: int, delta: float, epsilon: float | None) -> Self:
        """The mechanism with its failure probability: all rounds' take a share of ``delta``.

        Without a target, epsilon is what the noise multiplier costs at the rest of delta.
        """
        if epsilon is None:
            epsilon = self._implied(rounds, (1 - DELTA_SHARE) * delta)
        failure = DELTA_SHARE * delta / rounds / (1 + math.exp(min(epsilon, 700)))
        return replace(self, failure_probability=failure)

    def _implied(self, rounds: int, delta: float) -> float:
        try:
            return accounting.epsilon([(self.event().unfailing(), rounds)], delta).upper
        except (ValueError, OverflowError):  # hardly any noise, or a delta beyond what is certified
            return math.inf

    def remarks(self) -> Sequence[str]:
        if math.isinf(self.quantile):
            raise ConfigurationError(
                f"strategy=concentrated: epsilon leaves {self.failure_probability:.1e} a round for "
                "failures of the test, finer than noise can be drawn; take a smaller epsilon."
            )
        if self.threshold > self.expected_units:
            raise ConfigurationError(
                f"strategy.min_weight={self.least_weight:g}: with its noise the test asks for "
                f"{self.threshold:.4g} users who agree, and cohort={self.cohort:g} expects fewer; "
                "take a larger cohort or epsilon, a smaller min_weight, or more test_share."
            )
        passed, failed = self.mean_sensitivity, self.clip_norm / self.expected_units
        if passed < failed:
            return []
        return [
            f"strategy.tau={self.radius:g}: a passed test adds {passed / failed:.3g} times the "
            f"noise of a failed one; below tau={self.radius * failed / passed:.3g} it adds less."
        ]

    def depends_on_users(self) -> Sequence[str]:
        return ["test_share"]

    def event(self) -> RoundEvent:
        return replace(super().event(), failure_probability=self.failure_probability)

    def details(self) -> Mapping[str, Any]:
        return {
            "tau": self.radius,
            "min_weight": self.least_weight,
            "test_statistic": self.test_statistic,
            "test_share": self.test_share,
            "test_sensitivity": self.test_sensitivity,
            "test_noise_multiplier": self.test_multiplier,
            "test_quantile": _finite(self.quantile),
            "test_threshold": _finite(self.threshold),
            "failure_probability": self.failure_probability,
            "update_noise_multiplier": self.update_multiplier,
            "mean_sensitivity_if_passed": self.mean_sensitivity,
            "on_failure": self.on_failure,
        }


def _finite(value: float) -> float | None:
    """A ledger has no infinity."""
    return value if math.isfinite(value) else None
