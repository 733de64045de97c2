"""Draws integers from secret bits by their exact law: rounded Gaussians, gaps between heads.

An integer is a function of a real number U that is uniform on an interval. Of U, 64 bits are drawn.
In float64, with a bound of all errors, they almost always determine the integer. Where they do not,
further bits are drawn and compared with the exact boundary in multiprecision, until they do. So the
law is that of the real numbers, no tail is cut, and which bits exist decides nothing. docs/noise.md
derives the bounds.

>>> from userdp.sim.common import rng
>>> rounded_normal(rng.OsEntropy(), 3, 1000.0).shape
(3,)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import special

from userdp.sim.common.rng import ALL_BUT_SIGN, SecretStream

MOST_STD = 2.0**32  # of a rounded Gaussian: beyond, most draws would need more bits
# More than 1,000 times the errors found in `ndtri` (relative to 1 + |x|), and in `log` and `log1p`
# (relative): tests compare them with multiprecision.
NDTRI_ERROR, LOG_ERROR = 2.0**-40, 2.0**-40
_CHUNK = 1 << 18  # draws at a time, which a CPU keeps in its cache


def rounded_normal(stream: SecretStream, size: int, std: float) -> np.ndarray:
    """(size,) float64 integers: independent draws of N(0, std^2), rounded to the nearest integer.

    Args:
        stream: gives one word for each draw, and further ones where the rounding is not yet clear.
        std: taken as the exact value of this float64.

    Raises:
        ValueError: ``std`` is not within (0, ``MOST_STD``].
    """
    if not 0 < std <= MOST_STD:
        raise ValueError(f"Expected 0 < {std=} <= {MOST_STD}.")
    drawn = np.empty(size)
    for start in range(0, size, _CHUNK):
        part = drawn[start : start + _CHUNK]
        part[:] = _rounded_normals(stream, stream.words(len(part)), std)
    return drawn


def _rounded_normals(stream: SecretStream, words: np.ndarray, std: float) -> np.ndarray:
    """The draws of some words: the first bit is the sign, the others the tail's probability."""
    tails = words & ALL_BUT_SIGN
    known = tails.astype(np.float64)
    sizes = -special.ndtri((known + 0.5) * 2.0**-64)
    with np.errstate(divide="ignore"):
        errors = std * (1 / known + NDTRI_ERROR * (1 + sizes))
    scaled = std * sizes
    whole: np.ndarray = np.rint(scaled)
    unclear = np.flatnonzero(~(np.abs(scaled - whole) + errors < 0.5))
    for i in unclear.tolist():
        uniform = _LazyUniform(stream, int(tails[i]))
        whole[i] = _last_above(uniform, _normal_tail(uniform.context, std), int(scaled[i]))
    np.negative(whole, out=whole, where=words <= ALL_BUT_SIGN)
    return whole


def _normal_tail(context: Any, std: float) -> Callable[[int], Any]:
    """Probability that a Gaussian exceeds k - 1/2, from where on it is rounded to k or more."""

    def beyond(k: int) -> Any:
        return context.erfc((2 * k - 1) / (2 * context.mpf(std) * context.sqrt(2))) / 2

    return beyond


def geometric_gaps(stream: SecretStream, size: int, rate: float, most: int) -> np.ndarray:
    """(size,) int64: independent numbers of tails before the first head, or ``most`` if fewer.

    ``floor(log(U) / log(1 - rate))`` for U uniform on (0, 1): at least k with probability
    ``(1 - rate)^k``.

    Args:
        stream: gives one word for each draw, and further ones where the floor is not yet clear.
        rate: of heads, within (0, 1); taken as the exact value of this float64.
        most: larger draws are cut to this.
    """
    words = stream.words(size)
    upper = words > ALL_BUT_SIGN
    known = np.where(upper, ~words, words).astype(np.float64)  # the bits of 1 - U, or of U
    smaller = (known + 0.5) * 2.0**-64
    exponential = -np.where(upper, np.log1p(-smaller), np.log(smaller))
    with np.errstate(divide="ignore", over="ignore"):
        gaps = np.minimum(exponential / -np.log1p(-rate), 2.0 * most + 2)
        errors = gaps * (1 / known + LOG_ERROR)
        low = np.minimum(np.floor(np.maximum(gaps - errors, 0)), most)
        high = np.minimum(np.floor(gaps + errors), most)
    for i in np.flatnonzero(~(low == high)).tolist():
        uniform = _LazyUniform(stream, int(words[i]))
        low[i] = min(most, _last_above(uniform, _tails(uniform.context, rate), int(low[i])))
    gaps_drawn: np.ndarray = low.astype(np.int64)
    return gaps_drawn


def _tails(context: Any, rate: float) -> Callable[[int], Any]:
    """Probability that k coins in a row show tails."""
    return lambda k: context.exp(k * context.log1p(-context.mpf(rate)))


@dataclass
class _LazyUniform:
    """A real number U, uniform on (0, 1), whose bits are drawn when a comparison needs them."""

    stream: SecretStream
    value: int  # U 2^bits, rounded down
    bits: int = 64
    context: Any = field(init=False)  # of multiprecision arithmetic

    def __post_init__(self) -> None:
        from mpmath import MPContext  # slow to import, and rarely needed

        self.context = MPContext()

    def is_below(self, bound: Callable[[int], Any], k: int) -> bool:
        """Whether ``U < bound(k)``, for a bound of at most 1, to the last bit."""
        while True:
            self.context.prec = self.bits + 64  # so that rounding errors are far below 2^-20
            scaled = bound(k) * 2**self.bits
            if self.value + 1 <= scaled - 2.0**-20:
                return True
            if self.value >= scaled + 2.0**-20:
                return False
            self.value = self.value << 64 | int(self.stream.words(1)[0])
            self.bits += 64


def _last_above(uniform: _LazyUniform, bound: Callable[[int], Any], guess: int) -> int:
    """The largest k >= 0 with ``U < bound(k)``, for a bound that falls to 0 from above U at k = 0.

    Args:
        guess: of k; a good one saves comparisons.
    """
    low, high, step = guess, guess + 1, 1
    while low > 0 and not uniform.is_below(bound, low):
        low, high, step = max(0, low - step), low, 2 * step
    while uniform.is_below(bound, high):
        low, high, step = high, high + step, 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if uniform.is_below(bound, middle) else (low, middle)
    return low
