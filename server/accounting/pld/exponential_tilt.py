"""Exponential tilts (Esscher) of a summed privacy loss, and the tilt for a delta or an epsilon.

Any tilt gives a valid bound in `convolution`, a well chosen one a tight bound. The search for it
may therefore end early.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from userdp.server.accounting.events import FloatArray
from userdp.server.accounting.pld.loss_grid import LossGrid

Losses = Sequence[tuple[LossGrid, int]]  # grids of one step, and how often each is drawn

WEAKEST = 1e-8
STRONGEST = 8.0  # over the step: stronger tilts leave mass in single cells only
PRECISION = 1e-3  # relative, of the tilt; the bound's exponent moves by its square
MOST_STEPS = 60


@dataclass(frozen=True, kw_only=True)
class Tilt:
    """``log E exp(theta * sum of losses)``, and mean and variance of the sum so tilted."""

    theta: float
    log_moment: float
    mean: float
    variance: float

    @property
    def divergence(self) -> float:
        """Kullback-Leibler divergence of the tilted sum from the sum: -log of Chernoff's bound."""
        return max(0.0, self.theta * self.mean - self.log_moment)


def tilted_masses(grid: LossGrid, theta: float) -> tuple[FloatArray, float]:
    """(cells,) probabilities proportional to ``mass * exp(theta * loss)``, and log of their sum."""
    logs = grid.log_masses + theta * grid.losses
    top = logs.max()
    weights = np.exp(logs - top)
    total = weights.sum()
    return weights / total, float(top + math.log(total))


def log_moment(losses: Losses, theta: float) -> float:
    """``log E exp(theta * sum of losses)``."""
    total = 0.0
    for grid, count in losses:
        logs = grid.log_masses + theta * grid.losses
        top = logs.max()
        total += count * float(top + math.log(np.exp(logs - top).sum()))
    return total


def tilt(losses: Losses, theta: float) -> Tilt:
    """Moments of the sum of all losses under the tilt ``theta``."""
    log_moment = mean = variance = 0.0
    for grid, count in losses:
        masses, log_total = tilted_masses(grid, theta)
        centre = float(masses @ grid.losses)
        log_moment += count * log_total
        mean += count * centre
        variance += count * float(masses @ (grid.losses - centre) ** 2)
    return Tilt(theta=theta, log_moment=log_moment, mean=mean, variance=variance)


def saddle(losses: Losses, delta: float) -> Tilt:
    """The tilt at whose mean Chernoff's bound on delta equals ``delta`` (the saddle point).

    Newton steps on the root of twice the divergence, which is linear in theta for a normal sum.
    """
    target = math.sqrt(-2 * math.log(delta))

    def step(at: Tilt) -> float:
        root = math.sqrt(2 * at.divergence)
        return (target - root) * max(root, 1e-3) / (at.theta * at.variance)

    variance = tilt(losses, 0.0).variance
    return solved(losses, step, target / math.sqrt(variance) if variance > 0 else WEAKEST)


def with_mean(losses: Losses, mean: float, start: float) -> Tilt:
    """The tilt that moves the mean of the sum to ``mean``."""
    return solved(losses, lambda at: (mean - at.mean) / at.variance, start)


def solved(losses: Losses, step: Callable[[Tilt], float], start: float) -> Tilt:
    """The tilt at which ``step`` is small beside theta: Newton steps within a bracket, or halvings.

    Args:
        losses: grids of one step, and how often each is drawn.
        step: change of theta by a Newton step; positive below the solution, negative above.
        start: theta of the first tilt.
    """
    low, high = WEAKEST, STRONGEST / losses[0][0].step
    at = tilt(losses, min(max(start, low), high))
    for _ in range(MOST_STEPS):
        change = step(at) if at.variance > 0 else -at.theta
        if abs(change) <= PRECISION * at.theta or high <= low * (1 + PRECISION):
            break
        low, high = (at.theta, high) if change > 0 else (low, at.theta)
        theta = at.theta + change
        at = tilt(losses, theta if low < theta < high else math.sqrt(low * high))
    return at
