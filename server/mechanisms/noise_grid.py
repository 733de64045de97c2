"""Noise on a grid: a release that is a function of the Gaussian mechanism over the real numbers.

Every number that enters the sum S is a multiple of a public step g, a power of two: units are
rounded towards zero after their clip, so no norm grows and the sensitivity stays. The noise is
``g K`` with ``K = round(G / g)`` and G Gaussian over the real numbers, drawn by its exact law
(`userdp.sim.common.exact_draws`). Since S/g is an integer,

    S/g + round(G / g) = round((S + G) / g)

so the release is a rounding of S + G: post-processing of the Gaussian mechanism, and its accounting
event holds without a remark about floating point. Multiples of g this small add up in float64
without rounding, in any order. docs/noise.md has the proof in full.

>>> step(1.0, largest=100.0) == 2.0**-20
True
"""

from __future__ import annotations

import math

import numpy as np

from userdp.sim.common import exact_draws, rng
from userdp.sim.common.errors import ConfigurationError, StoppedError

FLOAT, DISCRETE = "float", "discrete"  # names of `privacy.noise`
STEPS = 20  # the noise's standard deviation is 2^20 steps or more, and below 2^21
_EXACT = 2.0**52  # integers up to twice this are float64s: that of the sum, and that of the noise
_SMALLEST = 2.0**-900  # a step that no product with a number of steps makes subnormal
# Noise multipliers are products and roots of float64s, each within a few 2^-53 of its real value.
_ROUNDING = 1 + 2.0**-48


def is_offered(mechanism: type) -> bool:
    """Whether the class that defines ``release`` says itself that it can add discrete noise.

    Args:
        mechanism: a `Mechanism`; what it inherits is said of the ``release`` that it inherits.
    """
    owner = next(base for base in mechanism.__mro__ if "release" in vars(base))
    return bool(vars(owner).get("discrete_noise", False))


def check(noise: str, mechanism: type) -> None:
    """Check that a mechanism offers noise of this name.

    Raises:
        ConfigurationError: it does not, or there is no such noise.
    """
    if noise not in (FLOAT, DISCRETE):
        raise ConfigurationError(f"privacy.noise={noise}: choose one of {FLOAT}, {DISCRETE}.")
    if noise == DISCRETE and not is_offered(mechanism):
        raise ConfigurationError(
            f"privacy.noise={noise}: {mechanism.__name__} adds noise to numbers on no grid; take "
            f"privacy.noise={FLOAT}, or another strategy."
        )


def step(noise_std: float, largest: float) -> float:
    """g: the largest power of two of which the noise's standard deviation has 2^20 or more.

    Args:
        noise_std: on one coordinate of the sum.
        largest: bound of the sum's size, for every possible cohort.

    Raises:
        ConfigurationError: a sum could leave the integers of float64, or the step underflows.
    """
    steps = math.ldexp(1.0, math.frexp(noise_std)[1] - 1 - STEPS)
    if not (steps >= _SMALLEST and largest / steps <= _EXACT):
        raise ConfigurationError(
            f"privacy.noise=discrete: noise of standard deviation {noise_std:g} has no grid on "
            f"which sums up to {largest:g} are exact; declare fewer users or slots, or take "
            "privacy.noise=float."
        )
    return steps


def noised(
    total: np.ndarray, noise_std: float, stream: rng.SecretStream, *, grid: float
) -> np.ndarray:
    """``total`` (D,) float64 with noise, all of it multiples of ``grid``; with float noise at 0.

    Args:
        noise_std: of the Gaussian before it is rounded; raised by 2^-48 of itself, so that it is
            nowhere below the product of noise multiplier and clip norm over the real numbers.
        grid: of `step`, or 0.

    Raises:
        StoppedError: a number of ``total`` is no multiple of ``grid``, or too large: the units were
            not rounded, or not clipped.
    """
    if not grid:
        return total + noise_std * rng.standard_normal(stream, len(total))
    steps = total / grid
    if not ((np.abs(steps) <= _EXACT) & (steps == np.rint(steps))).all():
        raise StoppedError(
            f"privacy.noise=discrete: a sum of clipped updates is no multiple of {grid:g}, or out "
            "of range; nothing was released. Each node must round its units' updates to the grid."
        )
    std = noise_std / grid * _ROUNDING
    steps += exact_draws.rounded_normal(stream, len(steps), std)
    steps += 0.0  # -0.0 plus -0.0 alone is -0.0: the sign of a sum's zero must not be released
    steps *= grid
    return steps
