"""Concentration: where most of a cohort agrees, noise is scaled to how closely, not to the clip.

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
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from userdp.server.ledger.ledger import Query
from userdp.server.mechanisms.base import CohortSum, Release
from userdp.server.mechanisms.concentrated import statistic as concentration
from userdp.server.mechanisms.concentrated.parameters import ConcentrationRule
from userdp.server.mechanisms.concentrated.statistic import Concentration
from userdp.sim.common import rng


@dataclass(frozen=True, kw_only=True)
class Concentrated(ConcentrationRule):
    """A noised test decides in every round which mean is released."""

    rounds_tested: int = 0
    rounds_passed: int = 0
    has_halted: bool = False

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
