"""Correlated noise: banded matrix factorisation over public groups of users.

Choquette-Choo et al., arXiv 2306.08153; the view of prefix sums as a workload, and adaptivity, are
Denisov et al., arXiv 2202.08312; Poisson coins under bands are section 4 of the former.

Position p of N belongs to public group p mod b. For t in 1..T:
    U ~ group (t-1) mod b, all of it; or each member by a coin of probability q' = cohort b / N
    y_t = (xi_t - sum over d in 1..b-1 of M[t, t-d] y_{t-d}) / M[t, t],   xi_t ~ N(0, (z C)^2 I)
    release (sum of g_u over u in U + y_t) / m,   m = N / b, or the cohort that was asked for

M is `userdp.server.mechanisms.matrix_factorization.factor`'s: lower-triangular, b bands, columns of norm 1, so ``M y = xi``. Noise of one
round takes back some of the noise of the rounds before; without coins nobody's cohort is a secret.

Guarantee: T rounds cost a user K = ceil(T / b) Poisson-subsampled Gaussians (q', z); at q' = 1 that
is one Gaussian of multiplier z / sqrt(K) for the run. Neighbours: one user added or removed, every
other user at their own position. Proof, for releases x_t = G_t + y_t of sums G:
1. The releases are the rows ``e_t = M[t, :] G + xi_t`` put through M^-1, which is public; rows and
   releases up to t are functions of one another, so an adversary sees the rows e_1, ..., e_t.
2. A user takes part in rounds at least b apart. Their update u in round s (norm <= C) moves the
   rows s, ..., s + b - 1 by ``M[t, s] u``, and no other rows; rows of two participations do not
   overlap. Before row s is seen, u is settled: it depends on earlier releases and on their data.
3. Given the rows before s, all other users' part of a row is the same function of the past with the
   user and without. So over these b rows the privacy loss is that of N(0, (z C)^2) against its
   shift by ``||M[:, s]|| ||u|| <= C`` in one direction: adaptivity changes nothing, since rows
   after s reveal no new u. With a coin for s it is that of (1-q') N(0) + q' N(shift), one coin for
   all b rows: a Poisson-subsampled Gaussian of multiplier z.
4. The participations compose adaptively: K events.

A prefix of r rounds holds at most ceil(r / b) participations, each with a part of its column, whose
norm is at most 1: ``ceil(r / rounds_per_event)`` events price every prefix, and all T rounds are
priced before the first. A round that was intended and not released is a row kept back: the rest is
post-processing of the whole. Its row is used if it was stored, or drawn afresh, which is the same
law because nothing was released of it; its intent stays spent, and its number is not used again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from userdp.server.ledger.query import Query
from userdp.server.mechanisms import sampling
from userdp.server.mechanisms.base import SET_BY_RUN, USER, Mechanism, Release
from userdp.server.mechanisms.matrix_factorization import factor as banded
from userdp.server.mechanisms.matrix_factorization.noise_state import NoiseWindow
from userdp.sim.common import rng
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.protocol.cohort_sum import CohortSum
from userdp.sim.protocol.contract import Assignment

_INDEPENDENT = "independent"  # M = I, for comparison: the same groups under plain noise
_OBJECTIVES = (*banded.OBJECTIVES, _INDEPENDENT)
_ROUNDING = 1e-9  # by which a cohort may seem larger than a group through division


@dataclass(frozen=True, kw_only=True)
class MatrixFactorization(Mechanism):
    """User-wise sums of one public group a round, under noise that is correlated over rounds.

    ``noise_multiplier`` is z, of one participation. ``noise_std`` is the root mean square over the
    rounds, since the noise of a single round is not the same in each.
    """

    unit: ClassVar[str] = USER
    rescalable: ClassVar[bool] = False  # the noise of a round takes back that of earlier ones

    rounds: int = field(default=1, metadata=SET_BY_RUN)  # T, the horizon
    bands: int | None = None  # b, with coins inside the groups; None: whole groups of about cohort
    objective: str = "mean"  # whose error the factor minimises: "mean", "last"; or "independent"
    window: NoiseWindow = field(
        default_factory=NoiseWindow, repr=False, compare=False, metadata=SET_BY_RUN
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1:
            raise ConfigurationError(f"rounds={self.rounds}: must be at least 1.")
        if self.objective not in _OBJECTIVES:
            known = ", ".join(_OBJECTIVES)
            raise ConfigurationError(f"strategy.objective={self.objective}: choose one of {known}.")
        if self.bands is not None and self.bands < 1:
            raise ConfigurationError(
                f"strategy.bands={self.bands}: must be at least 1, or null for whole groups."
            )
        if self.bands is not None and self.cohort * self.bands > self.users * (1 + _ROUNDING):
            raise ConfigurationError(
                f"cohort={self.cohort:g}: {self.bands} groups of {self.users} declared users have "
                f"{self.users / self.bands:g} each; give at most that, or fewer strategy.bands."
            )

    def _check_noise(self) -> None:
        if self.adaptive is not None:
            raise ConfigurationError(
                f"strategy.clip_quantile={self.adaptive.quantile}: correlated noise needs one clip "
                "norm for all rounds; leave it out."
            )
        super()._check_noise()

    @property
    def groups(self) -> int:
        """b: rounds from one participation of a user to the next."""
        return self.bands or round(self.users / self.cohort)

    @property
    def sampling_scheme(self) -> str:
        return "public groups" if self.sampling_rate == 1 else "public groups with poisson coins"

    @property
    def sampling_rate(self) -> float:
        """q', of a coin inside the round's group."""
        return 1.0 if self.bands is None else min(1.0, self.cohort * self.bands / self.users)

    @property
    def expected_units(self) -> float:
        """m: a public group's share of the declared users, times the rate of its coins."""
        return self.users / self.groups if self.sampling_rate == 1 else self.cohort

    @property
    def rounds_per_event(self) -> int:
        return self.groups

    @property
    def participations(self) -> int:
        """K: rounds of one user, at most."""
        return self.event_count(self.rounds)

    @property
    def factor(self) -> banded.Factor:
        """M, found once for all runs of a process."""
        if self.objective == _INDEPENDENT:
            return banded.identity(self.rounds)
        return banded.optimal(self.rounds, self.groups, self.objective)

    @property
    def noise_std(self) -> float:
        """Of the noise on the sum, a coordinate; root mean square over the rounds."""
        return self._scale * math.sqrt(float(self.factor.variances.mean()))

    @property
    def _scale(self) -> float:
        """Standard deviation of xi: z C."""
        return self.noise_multiplier * self.clip_norm

    def for_run(self, *, rounds: int, delta: float, epsilon: float | None) -> Self:
        return replace(self, rounds=rounds)

    def queries(self) -> Sequence[Query]:
        """One participation, as the rows of its column see it."""
        return [Query(name="update", sensitivity=self.clip_norm, noise_std=self._scale)]

    def details(self) -> Mapping[str, Any]:
        """Groups, factor, and its squared errors at noise N(0, 1), on a participation of norm 1."""
        factor, whole = self.factor, self.sampling_rate == 1
        once = {"run_noise_multiplier": self.noise_multiplier / math.sqrt(self.participations)}
        return {
            "groups": self.groups,
            "bands": factor.width,
            "participations": self.participations,
            "horizon": self.rounds,
            "objective": self.objective,
            "mean_squared_error": float(f"{factor.mean_error:.6g}"),
            "max_squared_error": float(f"{factor.max_error:.6g}"),
            **(once if whole else {}),
            "factor_sha256": factor.digest,
        }

    def draw(self, stream: rng.SecretStream, number: int) -> Assignment:
        """The group of round ``number``, or the heads among its members."""
        first = (number - 1) % self.groups
        members = len(range(first, self.users, self.groups))
        chosen = sampling.poisson_positions(stream, self.sampling_rate, members)
        return Assignment(users=first + self.groups * chosen, slots=np.empty(0, np.int64))

    def release(self, cohort: CohortSum, stream: rng.SecretStream, number: int) -> Release:
        """Mean of round ``number`` under its row of correlated noise; float64, once, here."""
        size, units = len(cohort.total), self.expected_units
        row = self.window.row(self.factor, stream, number, size)
        std = self._scale * math.sqrt(float(self.factor.variances[number - 1]))
        return Release((cohort.total + self._scale * row) / units, std / units)

    def store_secrets(self, folder: Path) -> None:
        self.window.save(folder, self.factor)

    def load_secrets(self, folder: Path, size: int, *, released: int, intended: int) -> None:
        if intended < self.rounds:  # a run whose rounds are all spent needs no more noise
            self.window.load(folder, self.factor, released=released, intended=intended)
            self.window.check_size(size)

    def delete_secrets(self, folder: Path) -> None:
        self.window.delete(folder)

    def console(self) -> str:
        k = self.records_per_user or "all"
        return f"user-wise: the mean over a user's {k} records, clipped"

    def console_rows(self) -> Mapping[str, str]:
        """Bands, groups and participations."""
        count, run_noise = self.participations, self.noise_multiplier
        times = "once" if count == 1 else f"{count} times"
        row = (
            f"over {self.factor.width} rounds; {self.groups} public groups, a user takes part "
            f"{times} at most"
        )
        if self.sampling_rate == 1:
            row += f": together one Gaussian of {run_noise / math.sqrt(count):.4g}"
        return {"correlated": row}

    @classmethod
    def noise_sentence(cls, facts: Mapping[str, Any]) -> str:
        """As for independent noise, unless the factor has more than one band."""
        if facts["mechanism_details"]["bands"] == 1:
            return super().noise_sentence(facts)
        return (
            "with Gaussian noise added to it that is correlated over the rounds, and covers one "
            f"round of a user as independent noise of standard deviation "
            f"{facts['noise_multiplier']} times the clip norm would"
        )

    @classmethod
    def assumptions(cls, facts: Mapping[str, Any]) -> Sequence[str]:
        return [
            "a user's place in the list of users, and so their group and rounds, is public and "
            "stays when another user comes or goes",
            "the last rows of correlated noise stayed secret while the run lasted; they were kept "
            "in a file of mode 0600 and deleted at its end",
        ]
