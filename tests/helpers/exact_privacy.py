"""Exact privacy losses by definition, to compare accountants with: closed forms and integrals."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import integrate, optimize, special, stats

from userdp.server.accounting import Epsilon, RoundEvent


def event(rate: float, noise: float, group_size: int = 1) -> RoundEvent:
    return RoundEvent(sampling_rate=rate, noise_multiplier=noise, group_size=group_size)


def brackets(bounds: Epsilon, truth: float) -> bool:
    """Whether the bounds hold the truth, but for rounding."""
    return bounds.lower <= truth * (1 + 1e-9) and truth <= bounds.upper * (1 + 1e-9)


def falling_root(delta_at: Callable[[float], float], delta: float) -> float:
    """Epsilon at which an exact, decreasing delta is reached."""
    high = 1.0
    while delta_at(high) > delta:
        high *= 2
    return optimize.brentq(lambda e: delta_at(e) - delta, 0, high, xtol=1e-12, rtol=1e-12)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Gaussian mechanism of sensitivity ``mu`` and unit noise (Balle & Wang 2018, Theorem 8)."""

    def delta_at(e: float) -> float:
        shrunk = math.exp(e + special.log_ndtr(-mu / 2 - e / mu))
        return special.ndtr(mu / 2 - e / mu) - shrunk

    return falling_root(delta_at, delta)


class Mixture:
    """One round by definition: P is a binomial mixture of normals, Q one normal; no grid.

    Methods take outputs or epsilons of any shape, unless they say otherwise.
    """

    def __init__(self, rate: float, noise: float, group_size: int):
        self.weights = stats.binom.pmf(np.arange(group_size + 1), group_size, rate)
        self.centres, self.noise = np.arange(group_size + 1.0), noise
        self.reach = group_size + 12 * noise

    def with_user(self, x):
        return stats.norm.pdf(np.asarray(x)[..., None], self.centres, self.noise) @ self.weights

    def without(self, x):
        return stats.norm.pdf(x, 0, self.noise)

    def loss(self, x):
        exponents = self.centres * (2 * np.asarray(x)[..., None] - self.centres)
        return special.logsumexp(exponents / (2 * self.noise**2), b=self.weights, axis=-1)

    def cut(self, loss):
        """Outputs where the loss is ``loss``; the ends of the axis where it never is."""
        low, high = np.full(np.shape(loss), -self.reach), np.full(np.shape(loss), self.reach)
        for _ in range(32):  # delta is stationary in the cut: its error is of second order
            middle = (low + high) / 2
            below = self.loss(middle) < loss
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return low

    def delta(self, e, removal=True):
        """Exact hockey-stick divergence of one round at ``e``, any shape."""
        x = self.cut(e if removal else -np.asarray(e))
        sign = 1 if removal else -1
        with_user = special.ndtr(sign * (self.centres - x[..., None]) / self.noise) @ self.weights
        without = special.ndtr(-sign * x / self.noise)
        first, second = (with_user, without) if removal else (without, with_user)
        return first - np.exp(e) * second

    def delta_of_two(self, e: float, removal=True) -> float:
        """Divergence of two rounds: that of one round, integrated over the other's output."""
        x = np.linspace(-self.reach, self.reach, 20_001)
        density, sign = (self.with_user(x), 1) if removal else (self.without(x), -1)
        return float(
            integrate.trapezoid(density * self.delta(e - sign * self.loss(x), removal), x=x)
        )


def summed_loss_distribution(
    one: RoundEvent, rounds: int, *, with_user: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Values and distribution function, (points,) each, of the summed loss of one-slot rounds.

    By a fine grid and one Fourier transform.
    """
    z, q = one.noise_multiplier, one.sampling_rate
    x = np.linspace(-11 * z, 1 + 11 * z, 400_001)
    density = stats.norm.pdf(x, 0, z)
    if with_user:
        density = (1 - q) * density + q * stats.norm.pdf(x, 1, z)
    loss = np.log1p(q * np.expm1((2 * x - 1) / (2 * z**2)))
    step = (loss[-1] - loss[0]) / 4000
    cells = np.round((loss - loss[0]) / step).astype(int)
    masses = np.bincount(cells, weights=density / density.sum(), minlength=4001)
    size = 2 ** math.ceil(math.log2(4001 * rounds))
    summed = np.fft.irfft(np.fft.rfft(masses, size) ** rounds, size)
    return rounds * loss[0] + step * (np.arange(size) + 0.5), np.cumsum(summed)
