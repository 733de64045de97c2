"""From one slot's guarantee to that of a user with k slots: the group privacy lemma, tight form.

If a slot has ``(e, d)``, the user has ``(k e, d * (exp(k e) - 1) / (exp(e) - 1))`` (Vadhan, "The
Complexity of Differential Privacy", 2017, Lemma 2.2, with the geometric sum kept). Every slot
guarantee whose second figure is at most the user's delta gives a valid ``k e``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable

DEEPEST = 512.0  # nats below delta to which slot deltas are tried
PRECISION = 0.01  # nats of the slot delta: what the bisection may give away


def log_growth(epsilon: float, group_size: int) -> float:
    """``log((exp(k e) - 1) / (exp(e) - 1))``: nats by which the group's delta exceeds a slot's."""
    if group_size * epsilon < 1e-12:
        return math.log(group_size) + group_size * epsilon  # above the exact value

    def log_expm1(x: float) -> float:
        return x + math.log(-math.expm1(-x))

    return log_expm1(group_size * epsilon) - log_expm1(epsilon)


def is_valid(epsilon: float, log_slot_delta: float, group_size: int, delta: float) -> bool:
    """Whether a slot's guarantee gives the user one at ``delta``."""
    if not math.isfinite(epsilon):
        return False
    return log_slot_delta + log_growth(epsilon, group_size) <= math.log(delta)


def slot_delta(slot_epsilon: Callable[[float], float], group_size: int, delta: float) -> float:
    """Largest slot delta found whose epsilon gives the user ``delta``; 0 if there is none.

    The condition need not be monotone in the slot's delta: it is scanned downwards from ``delta``
    in growing strides, then secant steps and halvings close in, always ending on a valid value.
    """
    if group_size == 1:
        return delta
    start = math.log(delta)

    def missing(depth: float) -> float:
        """Nats by which the group's delta exceeds ``delta``; not above 0 just where it is valid."""
        log_slot = start - depth
        slot = slot_epsilon(math.exp(log_slot))
        if is_valid(slot, log_slot, group_size, delta):
            return min(0.0, log_growth(slot, group_size) - depth)
        if not math.isfinite(slot):
            return math.inf
        return max(log_growth(slot, group_size) - depth, sys.float_info.min)  # other roundings

    shallow, above, deep = 0.0, math.inf, math.log(group_size)
    while not (below := missing(deep)) <= 0:
        if deep >= DEEPEST:
            return 0.0
        stride = 1.5 * below if math.isfinite(below) else 0.0
        further = min(max(1.1 * deep, deep + stride), 2 * deep, DEEPEST)
        shallow, above, deep = deep, below, further
    return math.exp(start - _closed_in(missing, shallow, above, deep, below))


def _closed_in(
    missing: Callable[[float], float], shallow: float, above: float, deep: float, below: float
) -> float:
    """A valid depth within ``PRECISION`` below one that is not, by turns secant and halving."""
    turn = 0
    while deep - shallow > PRECISION:
        middle = (shallow + deep) / 2
        if turn % 3 < 2 and math.isfinite(above):
            aim = shallow + (deep - shallow) * above / (above - below)
            aim += PRECISION / 3 if turn % 3 == 0 else -PRECISION / 3
            middle = min(max(aim, shallow + PRECISION / 3), deep - PRECISION / 3)
        left = missing(middle)
        if left <= 0:
            deep, below = middle, left
        else:
            shallow, above = middle, left
        turn += 1
    return deep


def first_valid(
    slot_epsilon: Callable[[float], float],
    slot_deltas: Iterable[float],
    group_size: int,
    delta: float,
) -> float:
    """The user's epsilon from the first of some slot deltas that is valid; inf if none is.

    For accountants that are slow, where another one tells which slot deltas are worth a try.
    """
    for candidate in slot_deltas:
        slot = slot_epsilon(candidate)
        if is_valid(slot, math.log(candidate), group_size, delta):
            return group_size * slot
    return math.inf
