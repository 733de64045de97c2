"""Base class of the privacy mechanisms: all that the privacy of one round rests on, in one object.

A `Mechanism` derives cohort, sensitivity, noise and accounting event of a round from a few public
numbers, so that they cannot disagree: a sampling rate, a denominator or a noise level is stated
nowhere else.

A new mechanism is a subclass in a file of its own. It draws the cohort, names the accounting event,
adds noise to the sum, and describes itself (`console`, `noise_sentence`, `assumptions`, ...), so
that planning, terminal, statement and model card need not know it. The fields that it adds to the
dataclass are its options, ``strategy.<field>`` in the configuration. `registry.MECHANISMS` lists
the mechanisms of this package; ``strategy.name=my_package.my_module.MyMechanism`` names one of
another package.

Formal guarantees, for a `Mechanism` whose clients obey its clip norm C:
- a unit enters a round at most once, with an independent coin of probability q (`draw`);
- adding or removing one unit moves the sum by at most C, so the release is
  ``(sum + N(0, (z C)^2 I)) / m`` at sensitivity C/m, whatever the realised cohort, the empty one
  included;
- the denominator m is a constant of the configuration;
- with an adaptive clip, update and clip bits are one joint Gaussian of multiplier z over one
  cohort, and contract, queries and release of a round have one C: a mechanism is frozen, and
  `after` returns that of the next round;
- with discrete noise, all of this holds in floating point as over the real numbers (`noise_grid`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from userdp.server.accounting import RoundEvent
from userdp.server.ledger.query import Query
from userdp.server.mechanisms import noise_grid, sampling
from userdp.server.mechanisms.adaptive_clip import BIT_SENSITIVITY, AdaptiveClip
from userdp.server.mechanisms.description import Description
from userdp.sim.common import rng
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.protocol.cohort_sum import CohortSum
from userdp.sim.protocol.contract import Assignment, Contract, LocalWork

USER, RECORD_SLOT = "user", "record_slot"  # what one clip bounds
ADD_OR_REMOVE, ZERO_OUT = "add-or-remove-one-user", "zero-out-one-user"  # which are neighbours
SET_BY_RUN = {"set_by_run": True}  # metadata of a field that is no option of the configuration


@dataclass(frozen=True)
class Release:
    """What one round publishes, and figures without noise that only a simulation may see."""

    mean: np.ndarray  # (D,) float64, with noise
    noise_std: float  # of the noise on one coordinate of the mean
    unclipped_fraction: float | None = None  # with noise; None where the clip norm is fixed
    released: Mapping[str, float] = field(default_factory=dict)  # further figures of the event
    simulation_only: Mapping[str, float] = field(default_factory=dict)
    halted: bool = False  # the mechanism releases nothing more: the run ends here


@dataclass(frozen=True, kw_only=True)
class Mechanism(Description, ABC):
    """Public parameters of a subsampled Gaussian mechanism over privacy units.

    Raises:
        ConfigurationError: a parameter is outside its range, or there is too little noise.
    """

    unit: ClassVar[str]  # what one clip bounds: USER or RECORD_SLOT
    private: ClassVar[bool] = True
    rescalable: ClassVar[bool] = True  # each round may scale the coordinates in its own way
    keeps_rows: ClassVar[bool] = False  # needs every unit's clipped update, not only their sum
    # Of `userdp.clients.training.clipping.CLIP_RULES`, or the dotted name of a rule elsewhere.
    clipping: ClassVar[str] = "joint"
    compared: ClassVar[bool] = False  # `userdp plan --all` compares it at equal gradients
    # Whether this class's `release` can add discrete noise; one with a `release` of its own says so
    # anew, as `noise_grid.is_offered` asks.
    discrete_noise: ClassVar[bool] = True
    # Names in `details` that depend on the machine's numerical libraries: never recomputed.
    machine_details: ClassVar[frozenset[str]] = frozenset()

    users: int  # N, declared
    cohort: float  # expected users' worth of gradients in a round
    records_per_user: int  # k; 0 takes all of a user's records (user-wise only)
    clip_norm: float  # C
    noise_multiplier: float  # z, of all queries of a round together
    adaptive: AdaptiveClip | None = None  # how C moves from round to round, where it does
    noise: str = noise_grid.FLOAT  # or DISCRETE: on a grid

    def __post_init__(self) -> None:
        if self.users < 1:
            raise ConfigurationError(f"privacy.users={self.users}: must be at least 1.")
        if not 0 < self.cohort <= self.users:
            raise ConfigurationError(
                f"cohort={self.cohort:g}: must be above 0 and at most the {self.users} "
                "declared users."
            )
        if self.records_per_user < 0:
            raise ConfigurationError(
                f"strategy.records_per_user={self.records_per_user}: must be at least 1, or all."
            )
        if not self.clip_norm > 0:
            raise ConfigurationError(f"strategy.clip_norm={self.clip_norm}: must be positive.")
        noise_grid.check(self.noise, type(self))
        self._check_noise()
        for name in ("grid", "bits_grid"):
            getattr(self, name)  # raises where noise is discrete and no grid is fine enough

    def _check_noise(self) -> None:
        # Below 2^-32 of the sum's size, float64 noise would round away in the sum it protects.
        if not (math.isfinite(self.noise_multiplier) and math.isfinite(self.clip_norm)):
            raise ConfigurationError("strategy.clip_norm and the noise must be finite.")
        if not self.noise_multiplier > self.expected_units * 2.0**-32:
            raise ConfigurationError(
                f"privacy.noise_multiplier={self.noise_multiplier}: must be positive "
                "(strategy=non_private trains without noise, and says so)."
            )
        if self.adaptive is not None:  # refuses clip bits that cost more than z
            self.adaptive.update_multiplier(self.noise_multiplier, self.expected_units)

    @classmethod
    def options(cls) -> Mapping[str, Field[Any]]:
        """The fields that this mechanism adds and a configuration may set, by name."""
        common = {item.name for item in fields(Mechanism)}
        added = [item for item in fields(cls) if item.name not in common]
        return {item.name: item for item in added if item.metadata != SET_BY_RUN}

    @property
    def adjacency(self) -> str:
        """Which populations are neighbours, where N is declared: `ADD_OR_REMOVE` or `ZERO_OUT`."""
        return ADD_OR_REMOVE

    @property
    def sampling_scheme(self) -> str:
        """How a cohort is drawn, in words of the statement."""
        return "poisson"

    @property
    def sampling_rate(self) -> float:
        """q, the probability of heads of every coin."""
        return self.cohort / self.users

    @property
    def group_size(self) -> int:
        """Units that one user owns, each with its own coin."""
        return 1

    @property
    def expected_units(self) -> float:
        """m, the denominator."""
        return self.cohort * self.group_size

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on one coordinate of the sum."""
        return self.update_multiplier * self.clip_norm

    @property
    def update_multiplier(self) -> float:
        """``noise_std`` over C: z, or a little more where the clip bits take their share."""
        if self.adaptive is None:
            return self.noise_multiplier
        return self.adaptive.update_multiplier(self.noise_multiplier, self.expected_units)

    @property
    def grid(self) -> float:
        """g: every number of a clipped update is a multiple of it; 0.0 where noise is float."""
        if self.noise == noise_grid.FLOAT:
            return 0.0
        return noise_grid.step(self.noise_std, self.users * self.group_size * self.clip_norm)

    @property
    def bits_grid(self) -> float:
        """The step of the noise on the clip bits, which are halves; 0.0 where noise is float."""
        if self.noise == noise_grid.FLOAT or self.adaptive is None:
            return 0.0
        std, most_units = self.adaptive.bit_std(self.expected_units), self.users * self.group_size
        return min(BIT_SENSITIVITY, noise_grid.step(std, most_units * BIT_SENSITIVITY))

    @property
    def cohort_cap(self) -> int | None:
        """Largest number of units in a round; None where there is no cap."""
        return None

    def event(self) -> RoundEvent:
        """The accounting event of one round.

        Raises:
            ValueError: the mechanism is not private.
        """
        return RoundEvent(
            sampling_rate=self.sampling_rate,
            noise_multiplier=self.noise_multiplier,
            group_size=self.group_size,
        )

    def ledger_event(self) -> Mapping[str, Any]:
        """The event of a round as the ledger stores it."""
        return self.event().to_dict()

    @property
    def rounds_per_event(self) -> int:
        """Rounds in which a user takes part at most once, so that they cost one event together."""
        return 1

    def event_count(self, rounds: int) -> int:
        """Number of events that this many rounds cost."""
        return math.ceil(rounds / self.rounds_per_event)

    @property
    def halted(self) -> bool:
        """Whether the mechanism releases nothing more."""
        return False

    def for_run(self, *, rounds: int, delta: float, epsilon: float | None) -> Self:
        """The mechanism with those parameters that depend on the whole run.

        Args:
            rounds: T.
            delta: of the claim.
            epsilon: the run's target; None where the noise multiplier is given instead.
        """
        return self

    def remarks(self) -> Sequence[str]:
        """Warnings about settings that are valid and probably not intended, one line each.

        Raises:
            ConfigurationError: at this noise the mechanism cannot serve its purpose.
        """
        return []

    def depends_on_users(self) -> Sequence[str]:
        """Options whose price depends on the number of users and not on the sampling rate alone."""
        return []

    def summary(self) -> Mapping[str, float]:
        """Released figures over all rounds so far that only this mechanism has, by metric."""
        return {}

    def console(self) -> str:
        """One line for the terminal: what a round does."""
        return f"{type(self).__name__}: {self.unit} updates, clipped"

    def console_rows(self) -> Mapping[str, str]:
        """Further rows for the terminal, by title."""
        return {}

    def details(self) -> Mapping[str, Any]:
        """Public parameters that only this mechanism has, for the ledger and the statement."""
        return {}

    def queries(self) -> Sequence[Query]:
        """The Gaussian queries of a round's joint release."""
        update = Query(name="update", sensitivity=self.clip_norm, noise_std=self.noise_std)
        if self.adaptive is None:
            return [update]
        std = self.adaptive.bit_std(self.expected_units)
        return [update, Query(name="unclipped_bits", sensitivity=BIT_SENSITIVITY, noise_std=std)]

    def contract(self, number: int, work: LocalWork) -> Contract:
        """What the units of round ``number`` must do.

        The mechanism alone writes every field that its guarantee rests on, whatever ``work`` holds.
        """
        required = {
            "redraw": work.redraw and self.unit == USER,  # slots are filled once for all rounds
            "round": number,
            "unit": self.unit,
            "clip_norm": self.clip_norm,
            "records_per_user": self.records_per_user,
            "clipping": self.clipping,
            "count_unclipped": self.adaptive is not None,
            "keep_rows": self.keeps_rows,
            "grid": self.grid,
        }
        return Contract(**{**vars(work), **required})

    @abstractmethod
    def draw(self, stream: rng.SecretStream, number: int) -> Assignment:
        """The cohort of round ``number``: one coin for each declared position of a unit."""

    def release(self, cohort: CohortSum, stream: rng.SecretStream, number: int) -> Release:
        """Mean of round ``number`` with noise, and clip bits with noise where C adapts.

        Noise is drawn and added in float64 on the CPU, once, here. Float noise is not the real
        Gaussian (Mironov, CCS 2012): the statement names it as a limit. Discrete noise is a
        rounding of it, by its exact law.

        Args:
            cohort: sum over all units of the round, ``total`` (D,) float64.
            stream: the round's secret stream; D normals are drawn for the mean, then one for the
                clip bits where C adapts.
            number: of the round, from 1.

        Raises:
            StoppedError: noise is discrete, and the sum is not on the grid.
            ValueError: C adapts, and the cohort has no clip bits.
        """
        total = cohort.total.astype(np.float64)
        noised = noise_grid.noised(total, self.noise_std, stream, grid=self.grid)
        mean = noised / self.expected_units
        noise_std = self.noise_std / self.expected_units
        if self.adaptive is None:
            return Release(mean, noise_std)
        if cohort.unclipped_bits is None:
            raise ValueError("The clip norm adapts, but the cohort has no clip bits.")
        std = self.adaptive.bit_std(self.expected_units)
        exact = np.array([cohort.unclipped_bits])
        [bits] = noise_grid.noised(exact, std, stream, grid=self.bits_grid)
        return Release(mean, noise_std, 0.5 + float(bits) / self.expected_units)

    def after(self, release: Release) -> Self:
        """The mechanism of the next round: the same one, or one with the clip norm that follows."""
        if self.adaptive is None or release.unclipped_fraction is None:
            return self
        clip_norm = self.adaptive.next_norm(self.clip_norm, release.unclipped_fraction)
        return replace(self, clip_norm=clip_norm)

    def state(self) -> dict[str, Any]:
        """Fields that releases have changed: public, stored in the checkpoint of every round."""
        return {"clip_norm": self.clip_norm}

    def restored(self, state: Mapping[str, Any]) -> Self:
        """The mechanism of the round after a stored one, from what `state` returned."""
        return replace(self, **state)

    def may_become(self, later: Mechanism, rounds: int) -> bool:
        """Whether so many releases can have led from this mechanism to ``later``.

        Args:
            later: from `restored`.
            rounds: number of the last release.
        """
        same = (self.ledger_event(), self.rounds_per_event, dict(self.details()))
        if (later.ledger_event(), later.rounds_per_event, dict(later.details())) != same:
            return False
        if self.adaptive is None:
            return later.clip_norm == self.clip_norm
        furthest = rounds * self.adaptive.largest_step(self.expected_units)
        return abs(math.log(later.clip_norm / self.clip_norm)) <= furthest

    def store_secrets(self, folder: Path) -> str:
        """Write secrets that later rounds need to ``folder``; called before each ``state``.

        Returns:
            A digest of them for the checkpoint, which is public: it must say nothing about them to
            whoever can guess them, as one under a random salt. Empty: there are no secrets.
        """
        return ""

    def load_secrets(
        self, folder: Path, size: int, *, released: int, intended: int, digest: str | None
    ) -> None:
        """Read what `store_secrets` wrote.

        Args:
            folder: of the checkpoint.
            size: D, parameters of the adapter.
            released: number of the last round that may have been released.
            intended: number of the last round with an intent in the ledger.
            digest: what `store_secrets` returned before the checkpoint was stored; empty where the
                checkpoint is an older version's, None where there is none.

        Raises:
            ConfigurationError: the secrets are missing, or belong to other rounds.
        """
        return None

    def delete_secrets(self, folder: Path) -> None:
        """Delete what `store_secrets` wrote; called when the last round is over."""
        return None

    def _heads(self, stream: rng.SecretStream) -> np.ndarray:
        """(units,) int64 ascending positions of the sampled units, out of N times k."""
        return sampling.poisson_positions(stream, self.sampling_rate, self.users * self.group_size)
