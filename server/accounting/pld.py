"""Privacy loss distributions of a composition, and the grid they live on."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from server.accounting import cells, compose
from server.accounting.events import RoundEvent

STEPS_PER_DEVIATION = 12  # grid steps in one standard deviation of a round's loss
FEWEST_CELLS = 200
CELL_LIMIT = 2**20
ABSOLUTE_GAP = 1e-6  # epsilons closer than this need no finer grid

Parts = Sequence[tuple[RoundEvent, int]]

below = functools.lru_cache(maxsize=16)(cells.below)
above = functools.lru_cache(maxsize=16)(cells.above)


def coarse_step(parts: Parts) -> float:
    """Grid width at which the discretisation adds about 0.1 % to the variance of the summed loss."""
    rounds = sum(count for _, count in parts)
    variance = sum(count * _deviation(event) ** 2 for event, count in parts) / rounds
    widest = max(cells.loss_range(event) for event, _ in parts)
    narrowest = min(cells.loss_range(event) for event, _ in parts)
    step = min(math.sqrt(variance) / STEPS_PER_DEVIATION, narrowest / FEWEST_CELLS)
    return max(step, widest / CELL_LIMIT)


_deviation = functools.lru_cache(maxsize=64)(cells.loss_deviation)


def lower(parts: Parts, delta: float, step: float) -> float:
    """Epsilon that is certainly not above the true one."""
    rounds = [(below(event, step), count) for event, count in parts]
    removal = compose.epsilon([(loss.removal, n) for loss, n in rounds], delta, "lower")
    addition = compose.epsilon([(loss.addition, n) for loss, n in rounds], delta, "lower")
    return max(removal, addition)


def upper(parts: Parts, delta: float, step: float) -> float:
    """Epsilon that is certainly not below the true one."""
    rounds = [(above(event, step), count) for event, count in parts]
    removal = compose.epsilon([(loss.removal, n) for loss, n in rounds], delta, "upper")
    addition = compose.epsilon([(loss.addition, n) for loss, n in rounds], delta, "upper")
    return max(removal, addition)


def bracket(parts: Parts, delta: float, relative_gap: float) -> tuple[float, float]:
    """Certified (lower, upper) epsilon; the grid is halved until they are close or it is full.

    Args:
        parts: distinct events with positive counts; at least one.
        delta: in (0, 1).
        relative_gap: wanted bound of upper / lower - 1.
    """
    step = coarse_step(parts)
    widest = max(cells.loss_range(event) for event, _ in parts)
    low, high = 0.0, math.inf
    while True:
        try:
            low = max(low, lower(parts, delta, step))
            high = min(high, upper(parts, delta, step))
        except compose.TooFineError:
            if math.isfinite(high):
                return low, high
            step *= 4
            relative_gap = math.inf  # this grid is already the finest that fits
            continue
        close = high - low <= max(relative_gap * low, ABSOLUTE_GAP)
        if close or widest / (step / 2) > CELL_LIMIT:
            return low, high
        step /= 2


def fine_upper(parts: Parts, delta: float) -> float:
    """Upper epsilon on a grid twice as fine as needed: for bounds that multiply its error."""
    step = coarse_step(parts) / 2
    while True:
        try:
            return upper(parts, delta, step)
        except compose.TooFineError:
            step *= 4
