"""Epsilon of rounds whose guarantee fails with a small probability.

Let every round be within total variation ``b_i`` of one without failure, with the user and without,
whatever the rounds before; ``total = sum of b_i``. Replacing the rounds one after another moves the
probability of any outcome by at most ``total`` on either side, so that rounds which are
``(eps, d)`` without failures are ``(eps, d + (1 + e^eps) total)`` with them. Epsilon at ``delta``
is thus the smallest solution of

    epsilon_without_failures(delta - (1 + e^eps) total) <= eps

whose left side grows with eps: it is approached from below and checked. The certified lower end is
0, since no neighbours are known that certainly reach more.
"""

from __future__ import annotations

import math
from collections.abc import Callable

RISE = 1e-5  # relative: the next candidate lies so far above the last left side
MOST_STEPS = 100
_ROUNDING = 1e-12


def remaining_delta(delta: float, total_failure: float, epsilon: float) -> float:
    """``delta - (1 + e^epsilon) total_failure``, rounded down; negative if nothing remains."""
    if epsilon > 700:
        return -math.inf
    cost = total_failure * (1 + math.exp(epsilon)) * (1 + _ROUNDING)
    return (delta - cost) * (1 - _ROUNDING)


def upper(
    upper_without_failures: Callable[[float], float],
    delta: float,
    total_failure: float,
    least_delta: float,
) -> float:
    """An epsilon that satisfies the inequality; infinite if none was found.

    Args:
        upper_without_failures: certified upper epsilon as a function of delta.
        delta: of the rounds with failures.
        total_failure: failure probabilities of all rounds, added up.
        least_delta: smallest delta that ``upper_without_failures`` takes.
    """
    epsilon = 0.0
    for _ in range(MOST_STEPS):
        remaining = remaining_delta(delta, total_failure, epsilon)
        if remaining < least_delta:
            return math.inf
        required = upper_without_failures(remaining)
        if required <= epsilon:
            return epsilon
        epsilon = required * (1 + RISE)
    return math.inf
