"""User-wise DP-SGD: average a user's records, clip, add up.

Algorithm 2 of Chua et al., arXiv 2406.14322; ULS in Charles et al., arXiv 2407.07737.

For t in 1..T:
    U ~ each of N users independently with probability q = m / N
    g_u = clip(mean over u's <= k records of the update, C)
    release (sum of g_u over u in U + N(0, (z C)^2 I)) / m

The average is inside the clip, so the sensitivity is C whatever k: k costs compute, not privacy.

With a cap on the cohort, U is a uniformly random subset of ``cohort_max`` wherever more users are
drawn (truncated Poisson sampling, arXiv 2508.15089). The number of users then enters the event, and
neighbours differ in the records of one user: a user without records still has a coin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np

from userdp.server.accounting import RoundEvent
from userdp.server.mechanisms import sampling
from userdp.server.mechanisms.base import USER, ZERO_OUT, Mechanism
from userdp.sim.common import rng
from userdp.sim.common.bounds import Between
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.protocol.contract import Assignment


@dataclass(frozen=True, kw_only=True)
class UserWise(Mechanism):
    """The privacy unit and the clipped unit are both the user.

    Raises:
        ConfigurationError: as `Mechanism`, or the cap is below 1.
    """

    unit: ClassVar[str] = USER
    compared: ClassVar[bool] = True

    cohort_max: Annotated[int, Between(1, 10**12)] | None = (
        None  # largest number of users in a round; None: no cap
    )

    def __post_init__(self) -> None:
        if self.cohort_max is not None and self.cohort_max < 1:
            raise ConfigurationError(
                f"strategy.cohort_max={self.cohort_max}: must be at least 1, or null for no cap."
            )
        super().__post_init__()

    @property
    def adjacency(self) -> str:
        """Zero-out where the cohort is capped, since the number of users enters the event."""
        return super().adjacency if self.cohort_max is None else ZERO_OUT

    @property
    def sampling_scheme(self) -> str:
        """Poisson, or truncated Poisson where the cohort is capped."""
        return super().sampling_scheme if self.cohort_max is None else "truncated poisson"

    @property
    def cohort_cap(self) -> int | None:
        """Largest number of users in a round; None where there is no cap."""
        return self.cohort_max

    def event(self) -> RoundEvent:
        """A Poisson-subsampled Gaussian; a truncated one where the cohort is capped."""
        if self.cohort_max is None:
            return super().event()
        return replace(super().event(), population=self.users, cohort_cap=self.cohort_max)

    def draw(self, stream: rng.SecretStream, number: int) -> Assignment:
        """The users whose coin shows heads, or a uniformly random subset of them up to the cap."""
        users = self._heads(stream)
        if self.cohort_max is not None:
            users = sampling.random_subset(stream, users, self.cohort_max)
        return Assignment(users=users, slots=np.empty(0, np.int64))

    def depends_on_users(self) -> Sequence[str]:
        """The cap."""
        return [] if self.cohort_max is None else ["cohort_max"]

    def console(self) -> str:
        """One line for the terminal: what a round does."""
        k = self.records_per_user or "all"
        return f"user-wise: the mean over a user's {k} records, clipped"
