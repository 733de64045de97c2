"""Correlated noise: banded matrix factorisation over public groups of users.

Choquette-Choo et al., arXiv 2306.08153 (coins under bands: section 4); prefix sums as the workload,
and adaptivity, are from Denisov et al., arXiv 2202.08312.

A user belongs to one of b public groups, by a keyed hash of their id. For t in 1..T:
    U = group (t-1) mod b, all of it; or each member by a coin of probability q' = cohort b / N
    y_t = (xi_t - sum over d in 1..b-1 of M[t, t-d] y_{t-d}) / M[t, t],   xi_t ~ N(0, (z C)^2 I)
    release (sum of g_u over u in U + y_t) / m,   m = N / b, or ``cohort`` where coins are tossed

M is lower-triangular with b bands and columns of norm 1 (`factor`), so ``M y = xi``. The noise of a
round cancels part of the noise of earlier rounds. Without coins, who takes part in a round is
public.

Guarantee: T rounds cost a user K = ceil(T / b) Poisson-subsampled Gaussians (q', z); at q' = 1 this
is one Gaussian of multiplier z / sqrt(K) for the run. Neighbours: one user added or removed.
Nobody else's group depends on that user, since a group is a function of its member's own id (groups
differ in size: m is the expected one, a constant). Proof, for releases x_t = G_t + y_t of sums G:
1. With the rows ``e_t = M[t, :] G + xi_t``, the releases are x = M^-1 e, and M is public. Rows and
   releases up to round t are therefore functions of one another: an adversary who sees the
   releases sees exactly the rows e_1, ..., e_t.
2. A user takes part in rounds that are at least b apart. Their update u in round s (norm <= C)
   moves the rows t = s, ..., s + b - 1 by ``M[t, s] u``, and no other row, so the rows of two
   participations do not overlap. u is fixed before row s is seen: it depends on earlier releases
   and on the user's data.
3. Given the rows before s, the part of a row that comes from all other users is the same function
   of the past with the user and without. Over these b rows the privacy loss is therefore that of
   N(0, (z C)^2) against its shift by ``||M[:, s]|| ||u|| <= C`` in one direction. Adaptivity does
   not change this, since the rows after s reveal no new u. With a coin for round s, the loss is
   that of (1-q') N(0) + q' N(shift), with one coin for all b rows: a Poisson-subsampled Gaussian of
   multiplier z.
4. The participations compose adaptively: K events.

The first r rounds hold at most ceil(r / b) participations, each with a part of its column, whose
norm is at most 1. So ``ceil(r / rounds_per_event)`` events account for every prefix, and all T
rounds are accounted for before the first one. If a round was intended and not released, one row is
withheld, and the other releases are post-processing of the complete run. If the checkpoint of the
round was stored, so was its row, which is used; else it is drawn anew, which has the same law
because nothing of the lost row was released.
The intent of such a round stays spent, and its number is not used again.

Runs of older versions go on with position p of N in group p mod b (``groups_by="place"``), under
their assumption that positions stay when another user comes or goes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np

from userdp.server.ledger.query import Query
from userdp.server.mechanisms import sampling
from userdp.server.mechanisms.base import SET_BY_RUN, USER, Mechanism, Release
from userdp.server.mechanisms.matrix_factorization import factor
from userdp.server.mechanisms.matrix_factorization.factor import Factor
from userdp.server.mechanisms.matrix_factorization.noise_state import NoiseWindow
from userdp.sim.common import rng
from userdp.sim.common.bounds import Between, Kind
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.protocol.cohort_sum import CohortSum
from userdp.sim.protocol.contract import Assignment, Contract, LocalWork

_INDEPENDENT = "independent"  # M = I, for comparison: the same groups under plain noise
_OBJECTIVES = (*factor.OBJECTIVES, _INDEPENDENT)
_ID, _PLACE = "id", "place"  # what decides a user's group
_ROUNDING = 1e-9  # relative error by which division may make a cohort exceed its group


@dataclass(frozen=True, kw_only=True)
class MatrixFactorization(Mechanism):
    """User-wise sums of one public group a round, under noise that is correlated over rounds.

    ``noise_multiplier`` is z, of one participation. ``noise_std`` is the root mean square over the
    rounds, since it differs from round to round.

    Raises:
        ConfigurationError: as `Mechanism`; the clip norm adapts, an option is outside its range, or
            the groups are smaller than the cohort.
    """

    unit: ClassVar[str] = USER
    machine_details: ClassVar[frozenset[str]] = frozenset(
        {"factor_sha256", "mean_squared_error", "max_squared_error"}
    )
    rescalable: ClassVar[bool] = False  # noise cancels noise of earlier rounds in the same space

    rounds: int = field(default=1, metadata=SET_BY_RUN)  # T, the horizon
    bands: Annotated[int, Between(1, 1_000_000)] | None = (
        None  # b, with coins in each group; None: whole groups of about ``cohort``
    )
    groups_by: Annotated[str, Kind("choice")] = (
        _ID  # "place": the position in the list of users, as in older versions
    )
    objective: Annotated[str, Kind("choice")] = (
        "mean"  # error that M minimises: "mean" or "last"; "independent" for M = I
    )
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
        if self.groups_by not in (_ID, _PLACE):
            raise ConfigurationError(
                f"strategy.groups_by={self.groups_by}: choose one of {_ID}, {_PLACE}."
            )
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
        """b: number of groups, and of rounds from one participation of a user to the next."""
        return self.bands or round(self.users / self.cohort)

    @property
    def sampling_scheme(self) -> str:
        """Public groups, with or without coins inside them."""
        return "public groups" if self.sampling_rate == 1 else "public groups with poisson coins"

    @property
    def sampling_rate(self) -> float:
        """q', the probability of heads of a coin inside the round's group; 1 for whole groups."""
        return 1.0 if self.bands is None else min(1.0, self.cohort * self.bands / self.users)

    @property
    def expected_units(self) -> float:
        """m: the declared users over the number of groups, times the rate of the coins."""
        return self.users / self.groups if self.sampling_rate == 1 else self.cohort

    @property
    def rounds_per_event(self) -> int:
        """b: in so many rounds in a row a user takes part at most once."""
        return self.groups

    @property
    def participations(self) -> int:
        """K: largest number of rounds that one user takes part in."""
        return self.event_count(self.rounds)

    @property
    def factor(self) -> Factor:
        """M; the search runs once in a process, for all runs that need the same M."""
        if self.objective == _INDEPENDENT:
            return factor.identity(self.rounds)
        return factor.optimal(self.rounds, self.groups, self.objective)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on one coordinate of the sum, root mean square over T."""
        return self._scale * math.sqrt(float(self.factor.variances.mean()))

    @property
    def _scale(self) -> float:
        """Standard deviation of xi: z C."""
        return self.noise_multiplier * self.clip_norm

    def for_run(self, *, rounds: int, delta: float, epsilon: float | None) -> Self:
        """The mechanism with its horizon T."""
        return replace(self, rounds=rounds)

    def queries(self) -> Sequence[Query]:
        """One query: a participation of norm C against the noise xi, over its column of M."""
        return [Query(name="update", sensitivity=self.clip_norm, noise_std=self._scale)]

    def details(self) -> Mapping[str, Any]:
        """Groups, factor, and its squared errors at noise N(0, 1), on a participation of norm 1."""
        matrix, whole = self.factor, self.sampling_rate == 1
        run_noise = {"run_noise_multiplier": self._run_noise_multiplier}
        return {
            "groups": self.groups,
            **({"groups_by": _ID} if self.groups_by == _ID else {}),  # older headers lack it
            "bands": matrix.width,
            "participations": self.participations,
            "horizon": self.rounds,
            "objective": self.objective,
            "mean_squared_error": float(f"{matrix.mean_error:.6g}"),
            "max_squared_error": float(f"{matrix.max_error:.6g}"),
            **(run_noise if whole else {}),
            "factor_sha256": matrix.digest,
        }

    @property
    def _run_noise_multiplier(self) -> float:
        """z / sqrt(K): the one Gaussian that the whole run costs where no coins are tossed."""
        return self.noise_multiplier / math.sqrt(self.participations)

    def draw(self, stream: rng.SecretStream, number: int) -> Assignment:
        """The positions whose coin shows heads (all of them where no coins are tossed).

        Of these the members of the round's group take part: nodes know who they are, by the
        contract. Where places decide, the server knows the group's positions and names no other.
        """
        if self.groups_by == _ID:
            heads = self._heads(stream)
        else:
            first = (number - 1) % self.groups
            members = len(range(first, self.users, self.groups))
            heads = sampling.poisson_positions(stream, self.sampling_rate, members)
            heads = first + self.groups * heads
        return Assignment(users=heads, slots=np.empty(0, np.int64))

    def contract(self, number: int, work: LocalWork) -> Contract:
        """What the units of round ``number`` must do, and which public group takes part."""
        contract = super().contract(number, work)
        if self.groups_by == _PLACE:
            return contract
        return replace(contract, groups=self.groups, group=(number - 1) % self.groups)

    def release(self, cohort: CohortSum, stream: rng.SecretStream, number: int) -> Release:
        """Mean of round ``number`` with its row of correlated noise.

        Noise is drawn and added in float64 on the CPU, once, here.

        Args:
            cohort: sum over all users of the round, ``total`` (D,) float64.
            stream: the round's secret stream; D normals are drawn for each new row.
            number: of the round, from 1.

        Raises:
            ValueError: the row of this round was drawn before, or the horizon has no such round.
        """
        size, units = len(cohort.total), self.expected_units
        row = self.window.row(self.factor, stream, number, size)
        std = self._scale * math.sqrt(float(self.factor.variances[number - 1]))
        return Release((cohort.total + self._scale * row) / units, std / units)

    def store_secrets(self, folder: Path) -> str:
        """Write the noise rows that later rounds need; the file is salted, its digest public."""
        return self.window.save(folder, self.factor)

    def load_secrets(
        self, folder: Path, size: int, *, released: int, intended: int, digest: str | None
    ) -> None:
        """Read the noise rows, unless all rounds are spent: such a run needs none.

        Raises:
            ConfigurationError: the rows are missing, damaged, too old, of another run, or not those
                of the digest.
        """
        if intended < self.rounds:
            self.window.load(
                folder, self.factor, released=released, intended=intended, digest=digest
            )
            self.window.check_size(size)

    def delete_secrets(self, folder: Path) -> None:
        """Delete the noise rows."""
        self.window.delete(folder)

    def console(self) -> str:
        """One line for the terminal: what a round does."""
        k = self.records_per_user or "all"
        return f"user-wise: the mean over a user's {k} records, clipped"

    def console_rows(self) -> Mapping[str, str]:
        """One row: bands, groups and participations."""
        count = self.participations
        times = "once" if count == 1 else f"{count} times"
        row = (
            f"over {self.factor.width} rounds; {self.groups} public groups, a user takes part "
            f"{times} at most"
        )
        if self.sampling_rate == 1:
            row += f": together one Gaussian of {self._run_noise_multiplier:.4g}"
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
        """That groups and rounds are public, and that the noise rows stayed secret."""
        public = (
            "the group of a user's id, and so the rounds that the user may take part in, is public"
        )
        if facts["mechanism_details"].get("groups_by") != _ID:  # an older version's run
            public = (
                "a user's place in the list of users, and so their group and rounds, is public and "
                "stays when another user comes or goes"
            )
        return [
            public,
            "the last rows of correlated noise stayed secret while the run lasted; they were kept "
            "in a file of mode 0600 and deleted at its end",
        ]
