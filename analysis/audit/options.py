"""Options of an audit: the words ``audit.NAME=VALUE`` of the command line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from userdp.sim.common import rng
from userdp.sim.common.errors import ConfigurationError

PREFIX = "audit."
CANARIES = ("vectors", "texts")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much is measured, and how sure a verdict must be.

    Raises:
        ConfigurationError: a value is out of range.
    """

    trials: int = 40000  # repetitions of one event, with the canary and without
    draws: int = 2000  # cohorts drawn for the sampling law
    count: int = 1000  # canary users of the one-run audit
    rounds: int = 100  # of the one-run audit, at most
    dimension: int = 16  # of the vectors in repeated rounds
    canaries: str = "vectors"  # "texts" adds canary users with invented texts
    users: int = 24  # with invented texts
    false_alarms: float = 1e-3  # probability that a correct mechanism is called broken by any check
    seed: int | None = None  # None: the operating system's entropy; a number repeats an audit

    def __post_init__(self) -> None:
        least = {"trials": 400, "draws": 50, "count": 8, "rounds": 1, "dimension": 4, "users": 2}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ConfigurationError(
                    f"{PREFIX}{name}={getattr(self, name)}: must be at least {value}."
                )
        if self.canaries not in CANARIES:
            raise ConfigurationError(
                f"{PREFIX}canaries={self.canaries}: choose one of {', '.join(CANARIES)}."
            )
        if not 1e-9 <= self.false_alarms <= 0.1:
            raise ConfigurationError(
                f"{PREFIX}false_alarms={self.false_alarms:g}: must lie between 1e-9 and 0.1."
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
    known = {item.name: item for item in fields(Options)}
    values: dict[str, Any] = {}
    for word in (word for word in words if word.startswith(PREFIX)):
        name, _, text = word.removeprefix(PREFIX).partition("=")
        if name not in known:
            raise ConfigurationError(f"{word}: no such option; choose one of {', '.join(known)}.")
        values[name] = _value(word, str(known[name].type), text)
    return Options(**values), [word for word in words if not word.startswith(PREFIX)]


def _value(word: str, kind: str, text: str) -> Any:
    convert = {"str": str, "float": float}.get(kind, int)
    try:
        return convert(text)
    except ValueError:
        raise ConfigurationError(f"{word}: should be a number.") from None
