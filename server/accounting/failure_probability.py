"""Epsilon of rounds whose guarantee fails with a small probability, from that of rounds without.

Let every round be within total variation ``b_i`` of one that costs what its event says, with the
user and without, whatever happened before; ``slack = sum of b_i``. Replacing the rounds one after
another moves the probability of any outcome by at most ``slack`` on either side, so that rounds
which are ``(eps, d)`` without failure are ``(eps, d + (1 + e^eps) slack)`` with it. Epsilon at
``delta`` is thus the smallest solution of

    epsilon_without_failure(delta - (1 + e^eps) slack) <= eps

whose left side grows with eps: it is approached from below and checked. The lower end is 0, since
no neighbours are known here that certainly reach more.
"""

from __future__ import annotations

import math
from collections.abc import Callable

RISE = 1e-5  # relative: how far above the last left side the next candidate lies
MOST_STEPS = 100
_ROUNDING = 1e-12


def spare(delta: float, slack: float, epsilon: float) -> float:
    """delta that is left when the failures have taken theirs, rounded down; negative if nothing."""
    if epsilon > 700:
        return -math.inf
    taken = slack * (1 + math.exp(epsilon)) * (1 + _ROUNDING)
    return (delta - taken) * (1 - _ROUNDING)


def upper(
    without_failure: Callable[[float], float], delta: float, slack: float, least_delta: float
) -> float:
    """An epsilon that satisfies the inequality; infinite if none was found.

    Args:
        without_failure: delta to certified upper epsilon.
        least_delta: smallest delta that ``without_failure`` takes.
    """
    epsilon = 0.0
    for _ in range(MOST_STEPS):
        left = spare(delta, slack, epsilon)
        if left < least_delta:
            return math.inf
        needed = without_failure(left)
        if needed <= epsilon:
            return epsilon
        epsilon = needed * (1 + RISE)
    return math.inf
