"""Random streams by purpose: public ones from a seed, secret ones from the operating system.

Public randomness (splits, record selection, initialisation) is a function of ``(seed, purpose,
keys)``. Secret randomness (cohort coins, noise) has no seed in the process: every uniform is read
from the operating system's generator, so no seed can be logged, leaked or replayed.

>>> first, second = (generator(1, "selection", 7).integers(100) for _ in range(2))
>>> bool(first == second)
True
>>> OsEntropy().uniform(2).shape
(2,)
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import special


def generator(seed: int, purpose: str, *keys: int | str) -> np.random.Generator:
    """The public stream of one purpose; streams of other purposes or keys are independent.

    Args:
        seed: of the configuration; public.
        purpose: for example ``"selection"``.
        keys: further parts of the stream's name, for example a round and a user.
    """
    name = "\x1f".join([str(seed), purpose, *map(str, keys)])
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


class SecretStream(Protocol):
    """A source of uniforms for cohort coins and noise."""

    def uniform(self, size: int) -> np.ndarray:
        """(size,) float64 independent draws, uniform on the open interval (0, 1)."""
        ...


class OsEntropy:
    """Uniforms read from the operating system's cryptographic generator; keeps no state."""

    def uniform(self, size: int) -> np.ndarray:
        """(size,) float64, odd multiples of 2^-53."""
        bits = np.frombuffer(os.urandom(8 * size), np.uint64) >> np.uint64(12)
        return (bits.astype(np.float64) + 0.5) * 2.0**-52  # 52 bits: never 0, never 1, symmetric


@dataclass(frozen=True)
class Replayed:
    """Uniforms from a seed, for debugging and tests: a run that uses them is NOT PRIVATE."""

    source: np.random.Generator

    def uniform(self, size: int) -> np.ndarray:
        """(size,) float64 of the same distribution as `OsEntropy.uniform`."""
        bits = self.source.integers(0, 2**52, size, dtype=np.uint64)
        return (bits.astype(np.float64) + 0.5) * 2.0**-52


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """Makes one secret stream for each purpose and round.

    ``replay_seed`` is None in every private run. If it is given, streams are keyed by purpose and
    round, so that a resumed run draws what the uninterrupted run would have drawn.
    """

    replay_seed: int | None = None

    def stream(self, purpose: str, number: int) -> SecretStream:
        """The stream of this purpose in round ``number``."""
        if self.replay_seed is None:
            return OsEntropy()
        return Replayed(generator(self.replay_seed, purpose, number))


def standard_normal(stream: SecretStream, size: int) -> np.ndarray:
    """(size,) float64 draws of N(0, 1) by the inverse distribution function; |x| < 8.3."""
    draws: np.ndarray = special.ndtri(stream.uniform(size))
    return draws
