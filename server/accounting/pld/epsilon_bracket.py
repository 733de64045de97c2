"""Certified lower and upper epsilon of a composition, on a grid refined until they are close."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from userdp.server.accounting.events import Composition
from userdp.server.accounting.pld import convolution, loss_grid, privacy_loss

STEPS_PER_DEVIATION = 20  # grid steps in one standard deviation of a round's loss
FEWEST_CELLS = 200  # of the first grid, for the round of the narrowest loss
CELL_LIMIT = 2**19
TAIL_SHARE = 1e-6  # of delta: what the grids of all rounds together may leave out
LEAST_TAIL = 1e-280
ABSOLUTE_GAP = 1e-5  # epsilons closer than this need no finer grid

_optimistic = functools.lru_cache(maxsize=16)(loss_grid.optimistic)
_pessimistic = functools.lru_cache(maxsize=16)(loss_grid.pessimistic)
_range = functools.lru_cache(maxsize=64)(privacy_loss.loss_range)
_deviation = functools.lru_cache(maxsize=64)(privacy_loss.loss_deviation)


def tail_mass(parts: Composition, delta: float) -> float:
    """Mass that a round's grid may leave out: a small share of delta.

    Rounded down to a power of 10^-4, so that compositions and deltas share grids.
    """
    share = TAIL_SHARE * delta / sum(count for _, count in parts)
    return max(10.0 ** (4 * math.floor(math.log10(share) / 4)), LEAST_TAIL)


def widest_range(parts: Composition, delta: float) -> float:
    """Largest range of one round's loss."""
    return max(_range(event, tail_mass(parts, delta)) for event, _ in parts)


def coarse_step(parts: Composition, delta: float) -> float:
    """Grid width at which the discretisation adds about 0.04 % to the variance of the loss."""
    rounds = sum(count for _, count in parts)
    variance = sum(count * _deviation(event) ** 2 for event, count in parts) / rounds
    narrowest = min(_range(event, tail_mass(parts, delta)) for event, _ in parts)
    step = min(math.sqrt(variance) / STEPS_PER_DEVIATION, narrowest / FEWEST_CELLS)
    return max(step, widest_range(parts, delta) / CELL_LIMIT)


def lower(parts: Composition, delta: float, step: float) -> float:
    """Epsilon that is certainly not above the true one."""
    return _worse_direction(parts, delta, step, "lower")


def upper(parts: Composition, delta: float, step: float) -> float:
    """Epsilon that is certainly not below the true one."""
    return _worse_direction(parts, delta, step, "upper")


def _worse_direction(
    parts: Composition, delta: float, step: float, side: convolution.Side
) -> float:
    """The larger of the bounds of both directions, removal and addition."""
    tail, discretize = tail_mass(parts, delta), _optimistic if side == "lower" else _pessimistic
    rounds = [(discretize(event, step, tail), count) for event, count in parts]
    removal = convolution.epsilon([(loss.removal, n) for loss, n in rounds], delta, side)
    addition = convolution.epsilon([(loss.addition, n) for loss, n in rounds], delta, side)
    return max(removal, addition)


def bracket(parts: Composition, delta: float, relative_gap: float) -> tuple[float, float]:
    """Certified (lower, upper) epsilon; the grid's step is halved until they are close.

    It also ends where the next grid would have more than ``CELL_LIMIT`` cells, or a sum of losses
    that is too long for one transform.

    Args:
        parts: distinct events with positive counts; at least one.
        delta: in (0, 1).
        relative_gap: wanted bound of upper / lower - 1.
    """
    step = coarse_step(parts, delta)
    finest = widest_range(parts, delta) / CELL_LIMIT
    low, high = 0.0, math.inf
    while not math.isfinite(high) or (step >= finest and not _close(low, high, relative_gap)):
        try:
            low = max(low, lower(parts, delta, step))
            high = min(high, upper(parts, delta, step))
            step /= 2
        except convolution.TooFineError:
            if math.isfinite(high):
                return low, high
            step, finest = 4 * step, math.inf  # do not refine the first grid that fits
    return low, high


def quick_upper(parts: Composition, delta: float) -> float:
    """Upper epsilon on the first grid, for searches that take many values.

    Args:
        parts: distinct events with positive counts; at least one.
        delta: in (0, 1).
    """
    step = coarse_step(parts, delta)
    while True:
        try:
            return upper(parts, delta, step)
        except convolution.TooFineError:
            step *= 4


def quick_curve(parts: Composition) -> Callable[[float], float]:
    """:func:`quick_upper` as a function of delta, with the values cached."""
    return functools.cache(functools.partial(quick_upper, parts))


def _close(low: float, high: float, relative_gap: float) -> bool:
    return high - low <= max(relative_gap * low, ABSOLUTE_GAP)
