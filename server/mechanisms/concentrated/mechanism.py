"""The concentration mechanism: where most of a cohort agrees, noise is scaled to how closely.

In the manner of Asi and Liu, arXiv 2311.03797; variant and proof in docs/concentration.md.

For t in 1..T, with a cohort and clipped updates x_1, ..., x_n as user-wise DP-SGD has them:
    W, mean = weight and weighted mean of the x_i at radius tau           (`userdp.server.mechanisms.concentrated.statistic`)
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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from userdp.server.ledger.query import Query
from userdp.server.mechanisms.base import SET_BY_RUN, Release
from userdp.server.mechanisms.concentrated import statistic as concentration
from userdp.server.mechanisms.concentrated.parameters import ConcentrationRule
from userdp.server.mechanisms.concentrated.statistic import Concentration
from userdp.sim.common import rng
from userdp.sim.protocol.cohort_sum import CohortSum


@dataclass(frozen=True, kw_only=True)
class Concentrated(ConcentrationRule):
    """A noised test decides in every round which mean is released."""

    rounds_tested: int = field(default=0, metadata=SET_BY_RUN)
    rounds_passed: int = field(default=0, metadata=SET_BY_RUN)
    has_halted: bool = field(default=False, metadata=SET_BY_RUN)

    @property
    def halted(self) -> bool:
        return self.has_halted

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

    def console(self) -> str:
        return (
            f"{super().console()}, tested for {self.threshold:.4g} who agree within "
            f"{self.radius:g}; else {self.on_failure}"
        )

    @classmethod
    def release_sentence(cls, facts: Mapping[str, Any], noised: str) -> str:
        """What either outcome of the test releases."""
        details = facts["mechanism_details"]
        mean_std = details["update_noise_multiplier"] * details["mean_sensitivity_if_passed"]
        failed = "nothing, and the run ends"
        if details["on_failure"] == "fallback":
            failed = f"the sum {noised}"
        return (
            f"a noised test decides what is released. Where its statistic reaches "
            f"{details['test_threshold']}, it is the mean of the users who agree within "
            f"{details['tau']}, with Gaussian noise of standard deviation {mean_std} added to it; "
            f"else it is {failed}. Test and update together cost one Gaussian of noise multiplier "
            f"{facts['noise_multiplier']}, but for a probability of "
            f"{details['failure_probability']} in a round, which epsilon and delta account for"
        )

    @classmethod
    def assumptions(cls, facts: Mapping[str, Any]) -> Sequence[str]:
        return [
            "a user's clipped update depends on the user and the adapter alone; its last bits in "
            "float32 also depend on who shares its stack (not so with engine.max_lanes=1)"
        ]

    @classmethod
    def also_released(cls, facts: Mapping[str, Any]) -> Sequence[str]:
        tested = "the noised test statistic of every round, and whether the round's test passed"
        return [*super().also_released(facts), tested]
