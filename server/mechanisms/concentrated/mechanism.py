"""Concentration mechanism: where a noised test finds that most updates agree, noise is smaller.

A variant of Asi and Liu, arXiv 2311.03797; definition and proof in docs/concentration.md.

For t in 1..T, with the cohort and the clipped updates x_1, ..., x_n of user-wise DP-SGD:
    W, mean = weight and weighted mean of the x_i at radius tau           (`statistic`)
    test    = W + N(0, (4 z_t)^2)                                         released
    if test >= min_weight + 4 z_t h:
        release mean + N(0, (z_g 52/3 tau / min_weight)^2 I)
    else:
        release (sum of x_i + N(0, (z_g C)^2 I)) / m, as user-wise        on_failure=fallback
        release nothing more, in this round or later                      on_failure=halt

With ``1/z^2 = 1/z_t^2 + 1/z_g^2``, test and update cost one Gaussian of multiplier z: either branch
is a Gaussian of multiplier z_g, unless the test passes although ``W < min_weight`` both for the
cohort with the user and for the cohort without. This has probability at most ``1 - Phi(h)``, the
failure probability of a round, which the accounting event holds. With ``test_statistic=pairs`` the
statistic is t instead of W, and its sensitivity 3 instead of 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from userdp.server.ledger.query import Query
from userdp.server.mechanisms.base import SET_BY_RUN, Mechanism, Release
from userdp.server.mechanisms.concentrated import statistic
from userdp.server.mechanisms.concentrated.parameters import ConcentrationRule
from userdp.server.mechanisms.concentrated.statistic import Concentration
from userdp.sim.common import rng
from userdp.sim.protocol.cohort_sum import CohortSum


@dataclass(frozen=True, kw_only=True)
class Concentrated(ConcentrationRule):
    """A noised test decides in every round which mean is released.

    Raises:
        ConfigurationError: as `ConcentrationRule`.
    """

    rounds_tested: int = field(default=0, metadata=SET_BY_RUN)
    rounds_passed: int = field(default=0, metadata=SET_BY_RUN)
    has_halted: bool = field(default=False, metadata=SET_BY_RUN)

    @property
    def halted(self) -> bool:
        """Whether a test failed with ``on_failure=halt``."""
        return self.has_halted

    def queries(self) -> Sequence[Query]:
        """Test and update.

        The intent is written before the test decides which update follows. The update is therefore
        recorded in units of its sensitivity: ``mean_sensitivity`` for the mean where the test
        passes, C for the sum where it fails.
        """
        test_std = self.test_multiplier * self.test_sensitivity
        return [
            Query(name="test", sensitivity=self.test_sensitivity, noise_std=test_std),
            Query(
                name="update_in_units_of_its_sensitivity",
                sensitivity=1.0,
                noise_std=self.update_multiplier,
            ),
        ]

    def release(self, cohort: CohortSum, stream: rng.SecretStream, number: int) -> Release:
        """The noised statistic, and the update that the test decides for.

        Args:
            cohort: with ``rows`` (n, D), the clipped updates.
            stream: one normal is drawn for the test, then D for the update where there is one.
            number: of the round.

        Raises:
            ValueError: the cohort has no rows.
        """
        if cohort.rows is None:
            raise ValueError("The concentration test needs the rows of the cohort.")
        concentration = statistic.measure(cohort.rows, self.radius)
        noise = self.test_multiplier * float(rng.standard_normal(stream, 1)[0])
        exact = concentration.statistic(self.test_statistic)
        noised = exact + self.test_sensitivity * noise
        passed = noised >= self.threshold
        if passed:
            update = self._noised_mean(concentration.mean(cohort.rows), stream)
        elif self.on_failure == "fallback":
            update = super().release(cohort, stream, number)
        else:
            update = Release(np.zeros(len(cohort.total)), 0.0, halted=True)
        return replace(
            update,
            released={"test_statistic": noised, "test_passed": float(passed)},
            simulation_only=self._without_noise(concentration),
        )

    def _noised_mean(self, mean: np.ndarray, stream: rng.SecretStream) -> Release:
        """Release of the weighted mean (D,) where the test passed."""
        std = self.update_multiplier * self.mean_sensitivity
        return Release(mean + std * rng.standard_normal(stream, len(mean)), std)

    def _without_noise(self, concentration: Concentration) -> Mapping[str, float]:
        """Result of the test without noise, and hence without its margin; simulation only."""
        exact, scores = concentration.statistic(self.test_statistic), concentration.scores
        return {
            "true_test_statistic": exact,
            "true_test_passed": float(exact >= self.least_weight),
            "concentrated_weight": concentration.statistic("weight"),
            "kept_fraction": float((scores > 0).mean()) if len(scores) else 0.0,
        }

    def after(self, release: Release) -> Self:
        """The mechanism of the next round, with this round's test counted."""
        return replace(
            super().after(release),
            rounds_tested=self.rounds_tested + 1,
            rounds_passed=self.rounds_passed + int(release.released["test_passed"]),
            has_halted=release.halted,
        )

    def may_become(self, later: Mechanism, rounds: int) -> bool:
        """As for any mechanism, and the counts of tests are possible."""
        tested, passed = self._counts(later)
        return 0 <= passed <= tested <= rounds and super().may_become(later, rounds)

    @staticmethod
    def _counts(later: Mechanism) -> tuple[int, int]:
        return getattr(later, "rounds_tested", -1), getattr(later, "rounds_passed", -1)

    def summary(self) -> Mapping[str, float]:
        """Share of the rounds whose test passed."""
        return {"test_pass_rate": self.rounds_passed / max(1, self.rounds_tested)}

    def state(self) -> dict[str, Any]:
        """Clip norm, counts of tests, and whether the mechanism halted."""
        names = ("rounds_tested", "rounds_passed", "has_halted")
        return {**super().state(), **{name: getattr(self, name) for name in names}}

    def console(self) -> str:
        """One line for the terminal: what a round does."""
        return (
            f"{super().console()}, tested for {self.threshold:.4g} who agree within "
            f"{self.radius:g}; else {self.on_failure}"
        )

    @classmethod
    def release_sentence(cls, facts: Mapping[str, Any], noised: str) -> str:
        """What is released where the test passes, and what where it fails."""
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
        """That a user's row does not depend on other users, except for float32 rounding."""
        return [
            "a user's clipped update depends on the user and the adapter alone; its last bits in "
            "float32 also depend on who shares its stack (not so with engine.max_lanes=1)"
        ]

    @classmethod
    def also_released(cls, facts: Mapping[str, Any]) -> Sequence[str]:
        """The noised statistic and the result of every round's test."""
        tested = "the noised test statistic of every round, and whether the round's test passed"
        return [*super().also_released(facts), tested]
