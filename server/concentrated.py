"""Concentration: where most of a cohort agrees, noise is scaled to how closely, not to the clip.

In the manner of Asi and Liu, arXiv 2311.03797; variant and proof in docs/concentration.md.

For t in 1..T, with a cohort and clipped updates x_1, ..., x_n as user-wise DP-SGD has them:
    W, mean = weight and weighted mean of the x_i at radius tau           (`server.concentration`)
    test    = W + N(0, (4 z_t)^2)                                         released
    if test >= min_weight + 4 z_t h:
        release mean + N(0, (z_g 52/3 tau / min_weight)^2 I)
    else:
        release (sum of x_i + N(0, (z_g C)^2 I)) / m, as user-wise        on_failure=fallback
        release nothing more, in this round or later                      on_failure=halt

Both branches are a Gaussian of multiplier z_g, unless the test passes though ``W < min_weight`` for
the cohort with and without the user: probability at most ``1 - Phi(h)``, the round's failure. With
``test_statistic=pairs`` t takes the place of W, and 3 that of 4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from scipy import special

from server import accounting, concentration
from server.accounting import RoundEvent
from server.concentration import Concentration
from server.ledger import Query
from server.mechanism import CohortSum, Release
from server.user_wise import UserWise
from sim import rng
from sim.errors import ConfigurationError

DELTA_SHARE = 0.01  # of delta, for the test's failures in all rounds
LEAST_TAU = 1e-4  # times C: below, float32 in the updates decides who is whose neighbour
RESOLUTION = 2.0**-52  # of the uniforms behind the noise: so far off its tail's probability may be
CHOICES = {
    "test_statistic": tuple(concentration.STATISTICS),
    "on_failure": ("fallback", "halt"),
}


@dataclass(frozen=True, kw_only=True)
class Concentrated(UserWise):
    """User-wise cohorts and clip; a noised test decides which mean is released."""

    keeps_rows: ClassVar[bool] = True

    tau: float | None = None  # radius; None: a fiftieth of the clip norm
    min_weight: float | None = None  # W_min; None: half of the expected cohort
    test_share: float = 0.05  # of 1/z^2, for the test
    test_statistic: str = "weight"  # W, or "pairs", t
    on_failure: str = "fallback"  # or "halt"
    failure_probability: float = 0.0  # of one round; `for_run` sets it
    rounds_tested: int = 0
    rounds_passed: int = 0
    has_halted: bool = False

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
        if not concentration.LEAST_WEIGHT <= self.least_weight < math.inf:
            raise ConfigurationError(
                f"strategy.min_weight={self.least_weight:g}: must be finite and at least "
                f"{concentration.LEAST_WEIGHT:g}, for which the mean is bounded; take a larger "
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
        return concentration.split(self.noise_multiplier, self.test_share)[0]

    @property
    def update_multiplier(self) -> float:
        """z_g, of either branch."""
        return concentration.split(self.noise_multiplier, self.test_share)[1]

    @property
    def test_sensitivity(self) -> float:
        return concentration.STATISTICS[self.test_statistic]

    @property
    def mean_sensitivity(self) -> float:
        """L2 change of the mean by one user, where the test passed."""
        return concentration.MEAN_SHIFT * self.radius / self.least_weight

    @property
    def quantile(self) -> float:
        """h: standard deviations by which the threshold exceeds W_min."""
        return -float(special.ndtri(max(0.0, self.failure_probability - RESOLUTION)))

    @property
    def threshold(self) -> float:
        """What the noised statistic must reach."""
        return self.least_weight + self.test_sensitivity * self.test_multiplier * self.quantile

    @property
    def halted(self) -> bool:
        return self.has_halted

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

    def queries(self) -> Sequence[Query]:
        """Test and update. An intent knows no branch yet, so the update is in units of what it will
        be sensitive by: ``mean_sensitivity`` for the mean, if the test passes, else C for the sum.
        """
        moved, in_units = self.test_sensitivity, "update_in_units_of_its_sensitivity"
        return [
            Query(name="test", sensitivity=moved, noise_std=self.test_multiplier * moved),
            Query(name=in_units, sensitivity=1.0, noise_std=self.update_multiplier),
        ]

    def release(self, cohort: CohortSum, stream: rng.SecretStream, number: int) -> Release:
        """The noised statistic, and the update that it decides for; needs the cohort's rows."""
        if cohort.rows is None:
            raise ValueError("The concentration test needs the rows of the cohort.")
        found = concentration.measure(cohort.rows, self.radius)
        noise = self.test_multiplier * float(rng.standard_normal(stream, 1)[0])
        statistic = found.statistic(self.test_statistic) + self.test_sensitivity * noise
        passed = statistic >= self.threshold
        if passed:
            update = self._noised_mean(found.mean(cohort.rows), stream)
        elif self.on_failure == "fallback":
            update = super().release(cohort, stream, number)
        else:
            update = Release(np.zeros(len(cohort.total)), 0.0, halted=True)
        return replace(
            update,
            released={"test_statistic": statistic, "test_passed": float(passed)},
            simulation_only=self._true(found),
        )

    def _noised_mean(self, mean: np.ndarray, stream: rng.SecretStream) -> Release:
        std = self.update_multiplier * self.mean_sensitivity
        return Release(mean + std * rng.standard_normal(stream, len(mean)), std)

    def _true(self, found: Concentration) -> Mapping[str, float]:
        """What the test would see without noise, and hence without its margin."""
        statistic = found.statistic(self.test_statistic)
        return {
            "true_test_statistic": statistic,
            "true_test_passed": float(statistic >= self.least_weight),
            "concentrated_weight": found.statistic("weight"),
            "kept_fraction": float((found.scores > 0).mean()) if len(found.scores) else 0.0,
        }

    def after(self, release: Release) -> Self:
        return replace(
            super().after(release),
            rounds_tested=self.rounds_tested + 1,
            rounds_passed=self.rounds_passed + int(release.released["test_passed"]),
            has_halted=release.halted,
        )

    def summary(self) -> Mapping[str, float]:
        return {"test_pass_rate": self.rounds_passed / max(1, self.rounds_tested)}

    def state(self) -> dict[str, Any]:
        names = ("rounds_tested", "rounds_passed", "has_halted")
        return {**super().state(), **{name: getattr(self, name) for name in names}}


def _finite(value: float) -> float | None:
    """A ledger has no infinity."""
    return value if math.isfinite(value) else None
