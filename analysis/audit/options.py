"""Options of an audit: the words ``audit.NAME=VALUE`` of the command line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from userdp.sim.common import rng
from userdp.sim.common.bounds import Between
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import command_options
from userdp.sim.config.field_types import MOST_ROUNDS, Choice, Closed, Real, Seed, Whole

PREFIX = "audit."
CANARIES = ("vectors", "texts")


@dataclass(frozen=True, kw_only=True)
class Options(Closed):
    """How much is measured, and how sure a verdict must be.

    Raises:
        ConfigurationError: a value is out of range.
    """

    trials: Annotated[Whole, Between(400, 10**8)] = (
        40000  # repetitions of one event, with the canary and without
    )
    draws: Annotated[Whole, Between(50, 10**7)] = 2000  # cohorts drawn for the sampling law
    count: Annotated[Whole, Between(8, 10**6)] = 1000  # canary users of the one-run audit
    rounds: Annotated[Whole, Between(1, MOST_ROUNDS)] = 100  # of the one-run audit, at most
    dimension: Annotated[Whole, Between(4, 10**6)] = 16  # of the vectors in repeated rounds
    canaries: Choice = "vectors"  # "texts" adds canary users with invented texts
    users: Annotated[Whole, Between(2, 10**6)] = 24  # with invented texts
    # Probability that a correct mechanism is called broken by any check.
    false_alarms: Annotated[Real, Between(1e-9, 0.1)] = 1e-3
    seed: Seed | None = None  # None: the operating system's entropy; a number repeats an audit

    def __post_init__(self) -> None:
        if self.canaries not in CANARIES:
            raise ConfigurationError(
                f"{PREFIX}canaries={self.canaries}: choose one of {', '.join(CANARIES)}."
            )

    def randomness(self) -> Randomness:
        """The streams of one audit."""
        if self.seed is not None:
            return Randomness(seed=self.seed, replayed=True)
        return Randomness(seed=int.from_bytes(os.urandom(7), "little"), replayed=False)


@dataclass(frozen=True, kw_only=True)
class Randomness:
    """Streams of an audit by purpose: secret ones for the mechanism, and the auditor's own."""

    seed: int
    replayed: bool

    def secret(self, purpose: str) -> rng.SecretStream:
        """Coins and noise of a mechanism."""
        return self.paired(purpose, 0) if self.replayed else rng.OsEntropy()

    def paired(self, purpose: str, number: int) -> rng.SecretStream:
        """A stream that is the same in two worlds, so that their difference has no noise."""
        return rng.Secrets(replay_seed=self.seed).stream(f"audit {purpose}", number)

    def own(self, purpose: str) -> Any:
        """A generator of the auditor, for directions and the canaries' coins."""
        return rng.generator(self.seed, f"auditor {purpose}")


def parse(words: Sequence[str]) -> tuple[Options, list[str]]:
    """The options, and the words that are not options of the audit.

    Raises:
        ConfigurationError: there is no such option, or a value does not fit.
    """
    return command_options.taken(Options, words, PREFIX)
