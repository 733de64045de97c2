"""Finds an argument at which a decreasing function is just below a target value.

>>> round(falling_root(lambda noise: 6 / noise, target=2, guess=1), 2)
3.0
"""

from __future__ import annotations

import math
from collections.abc import Callable

TOLERANCE = 0.002  # relative distance by which the value reached may be below the target
CLOSE_ENOUGH = 1.0005  # ratio of the bracket's ends at which the search stops
SMALLEST, LARGEST = 1e-3, 1e7
MOST_STEPS = 80
LONGEST_STEP = 1.5  # in the logarithm of the argument
FLATTEST_SLOPE = -0.2  # of log(function) over log(argument); bounds the length of a secant step


def falling_root(
    function: Callable[[float], float], target: float, guess: float, *, argument: str = "argument"
) -> float:
    """An argument at which the function is at most ``target``, by at most the tolerance below it.

    Secant steps in the logarithms of argument and value, within the bracket of the largest argument
    whose value is known to exceed the target and the smallest whose value is known not to. Where a
    value is zero or infinite, the bracket is bisected.

    Args:
        function: decreasing, from a positive value to one >= 0; may be infinite.
        target: positive.
        guess: argument to start from, positive.
        argument: what the argument is, for the error message.

    Raises:
        ValueError: at no argument between 1e-3 and 1e7 is the value at most the target.
    """
    log_target = math.log(target * (1 - TOLERANCE / 2))
    above, within, slope = SMALLEST, LARGEST, -1.2
    position, previous = math.log(guess), None
    for _ in range(MOST_STEPS):
        value = function(math.exp(position))
        if value <= target:
            within = min(within, math.exp(position))
            if value >= target * (1 - TOLERANCE):
                return math.exp(position)
        else:
            above = max(above, math.exp(position))
        if within / above < CLOSE_ENOUGH:
            break
        excess = math.log(value) - log_target if 0 < value < math.inf else None
        if excess is not None and previous is not None and previous[1] is not None:
            slope = min((excess - previous[1]) / (position - previous[0]), FLATTEST_SLOPE)
        previous = (position, excess)
        position = _next_position(position, excess, slope, math.log(above), math.log(within))
    if within < LARGEST:
        return within
    raise ValueError(
        f"Found no {argument} from {SMALLEST:g} to {LARGEST:g} that meets the target {target!r}."
    )


def _next_position(
    position: float, excess: float | None, slope: float, lowest: float, highest: float
) -> float:
    """A secant step if the excess is known and the step stays in the bracket, else bisection."""
    if excess is not None:
        step = max(-LONGEST_STEP, min(LONGEST_STEP, -excess / slope))
        if lowest < position + step < highest:
            return position + step
    return (lowest + highest) / 2
