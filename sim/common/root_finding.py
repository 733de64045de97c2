"""The noise at which a falling epsilon meets a target, always ending on the private side."""

from __future__ import annotations

import math
from collections.abc import Callable

TOLERANCE = 0.002  # the epsilon reached is at most this share below the target
CLOSE_ENOUGH = 1.0005  # ratio of a private noise multiplier to one that is not
SMALLEST, LARGEST = 1e-3, 1e7


def private_root(upper: Callable[[float], float], target: float, guess: float) -> float:
    """A noise multiplier whose epsilon is at most ``target``, and by little.

    Secant steps in logarithms, kept between the largest value known not to be private and the
    smallest known to be.

    Raises:
        ValueError: none was found between 1e-3 and 1e7.
    """
    aim = math.log(target * (1 - TOLERANCE / 2))
    open_end, private_end, slope = SMALLEST, LARGEST, -1.2
    place, before = math.log(guess), None
    for _ in range(80):
        value = upper(math.exp(place))
        if value <= target:
            private_end = min(private_end, math.exp(place))
            if value >= target * (1 - TOLERANCE):
                return math.exp(place)
        else:
            open_end = max(open_end, math.exp(place))
        if private_end / open_end < CLOSE_ENOUGH:
            break
        height = math.log(value) - aim if 0 < value < math.inf else None
        if height is not None and before is not None and before[1] is not None:
            slope = min((height - before[1]) / (place - before[0]), -0.2)
        before = (place, height)
        place = _next(place, height, slope, math.log(open_end), math.log(private_end))
    if private_end < LARGEST:
        return private_end
    raise ValueError(f"Found no noise multiplier with epsilon <= {target!r} up to {LARGEST}.")


def _next(place: float, height: float | None, slope: float, lowest: float, highest: float) -> float:
    """Secant step if epsilon is a positive number and the bracket is kept, else bisection."""
    if height is not None:
        step = max(-1.5, min(1.5, -height / slope))
        if lowest < place + step < highest:
            return place + step
    return (lowest + highest) / 2
