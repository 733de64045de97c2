"""Public parameters of the concentration test: radius, threshold, split of the noise; their checks.

`mechanism` releases with them; docs/concentration.md proves that they suffice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Self

from scipy import special

from userdp.server import accounting
from userdp.server.accounting import RoundEvent
from userdp.server.mechanisms.base import SET_BY_RUN
from userdp.server.mechanisms.concentrated import statistic
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.common.bounds import Between, Kind
from userdp.sim.common.errors import ConfigurationError

DELTA_SHARE = 0.01  # share of delta for failures of the test, in all rounds together
LEAST_TAU = 1e-4  # times C: below it, float32 rounding of updates decides who is a neighbour
RESOLUTION = 2.0**-52  # more than the error of a tail's probability in the noise as drawn
CHOICES = {
    "test_statistic": tuple(statistic.STATISTICS),
    "on_failure": ("fallback", "halt"),
}


@dataclass(frozen=True, kw_only=True)
class ConcentrationRule(UserWise):
    """User-wise cohorts and clip, and a noised test for how closely the updates agree.

    Raises:
        ConfigurationError: as `UserWise`; the cohort is capped, the clip norm adapts, or an option
            is outside its range.
    """

    keeps_rows: ClassVar[bool] = True
    compared: ClassVar[bool] = False

    cohort_max: int | None = field(default=None, metadata=SET_BY_RUN)  # no option: always None
    tau: Annotated[float, Between(0, 1e9, above=True)] | None = (
        None  # radius; None: a fiftieth of the clip norm
    )
    min_weight: Annotated[float, Between(0, 1e12, above=True)] | None = (
        None  # W_min; None: half of the expected cohort
    )
    test_share: Annotated[float, Between(0, 1, above=True, below=True)] = (
        0.05  # share of 1/z^2 for the test
    )
    test_statistic: Annotated[str, Kind("choice")] = "weight"  # "weight" for W, "pairs" for t
    on_failure: Annotated[str, Kind("choice")] = "fallback"  # "fallback" or "halt"
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
        """tau, in units of the updates."""
        return self.clip_norm / 50 if self.tau is None else self.tau

    @property
    def least_weight(self) -> float:
        """W_min, in users."""
        return self.expected_units / 2 if self.min_weight is None else self.min_weight

    @property
    def test_multiplier(self) -> float:
        """z_t, noise multiplier of the test."""
        return statistic.split(self.noise_multiplier, self.test_share)[0]

    @property
    def update_multiplier(self) -> float:
        """z_g, noise multiplier of the update in either branch."""
        return statistic.split(self.noise_multiplier, self.test_share)[1]

    @property
    def test_sensitivity(self) -> float:
        """Bound on the change of the statistic by one user."""
        return statistic.STATISTICS[self.test_statistic]

    @property
    def mean_sensitivity(self) -> float:
        """Bound on the L2 change of the mean by one user, where the test passed."""
        return statistic.MEAN_SHIFT * self.radius / self.least_weight

    @property
    def quantile(self) -> float:
        """h: by how many standard deviations of the test's noise the threshold exceeds W_min."""
        return -float(special.ndtri(max(0.0, self.failure_probability - RESOLUTION)))

    @property
    def threshold(self) -> float:
        """Value from which on the noised statistic passes the test."""
        return self.least_weight + self.test_sensitivity * self.test_multiplier * self.quantile

    def for_run(self, *, rounds: int, delta: float, epsilon: float | None) -> Self:
        """The mechanism with its failure probability a round.

        The failures of all rounds together take ``DELTA_SHARE`` of ``delta``. Without a target,
        epsilon is what the noise multiplier costs at the rest of delta.
        """
        if epsilon is None:
            epsilon = self._epsilon_without_failures(rounds, (1 - DELTA_SHARE) * delta)
        failure = DELTA_SHARE * delta / rounds / (1 + math.exp(min(epsilon, 700)))
        return replace(self, failure_probability=failure)

    def _epsilon_without_failures(self, rounds: int, delta: float) -> float:
        try:
            return accounting.epsilon([(self.event().unfailing(), rounds)], delta).upper
        except (ValueError, OverflowError):  # hardly any noise, or a delta beyond what is certified
            return math.inf

    def remarks(self) -> Sequence[str]:
        """Warns of a radius at which a passed test adds more noise than a failed one.

        Raises:
            ConfigurationError: the test cannot pass, or may fail less often than noise can resolve.
        """
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
        """The test's share, since the threshold counts users."""
        return ["test_share"]

    def event(self) -> RoundEvent:
        """A Poisson-subsampled Gaussian that fails with the round's failure probability."""
        return replace(super().event(), failure_probability=self.failure_probability)

    def details(self) -> Mapping[str, Any]:
        """Parameters of the test, and the noise of test and update."""
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
    """None for infinity, which a ledger cannot hold."""
    return value if math.isfinite(value) else None
