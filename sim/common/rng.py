"""Random streams by purpose: public ones from a seed, secret ones from the operating system.

Public randomness (splits, record selection, initialisation) is a function of ``(seed, purpose,
keys)``. Secret randomness (cohort coins, noise) has no seed in the process: every bit is read from
the operating system's generator, so no seed can be logged, leaked or replayed.

>>> first, second = (generator(1, "selection", 7).integers(100) for _ in range(2))
>>> bool(first == second)
True
>>> standard_normal(OsEntropy(), 2).shape
(2,)
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import special

ALL_BUT_SIGN = np.uint64(2**63 - 1)  # of a word: the bits of a tail's probability
_SIGNIFICANT = np.uint64(2**52)  # leading bits of a probability below this are too few


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
    """A source of uniform bits for cohort coins and noise."""

    def words(self, size: int) -> np.ndarray:
        """(size,) uint64 of 64 independent uniform bits each."""
        ...


class OsEntropy:
    """Bits read from the operating system's cryptographic generator; keeps no state."""

    def words(self, size: int) -> np.ndarray:
        """(size,) uint64, read afresh."""
        return np.frombuffer(os.urandom(8 * size), np.uint64)


@dataclass(frozen=True)
class Replayed:
    """Bits from a seed, for debugging and tests: a run that uses them is NOT PRIVATE."""

    source: np.random.Generator

    def words(self, size: int) -> np.ndarray:
        """(size,) uint64 of the same distribution as `OsEntropy.words`."""
        return self.source.integers(0, 2**64, size, dtype=np.uint64)


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
    """(size,) float64 draws of N(0, 1) by the inverse distribution function.

    The first bit of a word is the sign; the others are the probability of the tail beyond the draw.
    Its 52 leading bits are random however small it is, so no tail is cut: the support ends where
    float64 does, beyond 37 standard deviations (docs/noise.md).
    """
    words = stream.words(size)
    draws: np.ndarray = special.ndtri(_tail_probabilities(words & ALL_BUT_SIGN, stream))
    np.negative(draws, out=draws, where=words > ALL_BUT_SIGN)
    return draws


def _tail_probabilities(leading: np.ndarray, stream: SecretStream) -> np.ndarray:
    """(size,) float64 uniform on (0, 1/2) to 52 significant bits.

    Args:
        leading: (size,) uint64 below 2^63, the first bits after the binary point's zero.
        stream: gives another word to those of fewer than 52 significant bits, one in 2,048.
    """
    probabilities: np.ndarray = (leading.astype(np.float64) + 0.5) * 2.0**-64
    short = np.flatnonzero(leading < _SIGNIFICANT)
    leading, unit = leading[short], 2.0**-64
    while len(short) and unit > 2.0**-1000:  # reached with a probability below 2^-900
        following, unit = stream.words(len(short)), unit * 2.0**-64
        known = leading.astype(np.float64) * 2.0**64 + following
        probabilities[short] = (known + 0.5) * unit
        again = (leading == 0) & (following < _SIGNIFICANT)
        short, leading = short[again], following[again]
    return probabilities
