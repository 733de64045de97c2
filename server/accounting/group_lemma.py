"""The group privacy lemma, tight form: from the guarantee of one slot to that of a user with k.

If a slot has ``(e, d)``, the user has ``(k e, d * (exp(k e) - 1) / (exp(e) - 1))`` (Vadhan, "The
Complexity of Differential Privacy", 2017, Lemma 2.2, with the geometric sum kept). Every slot
guarantee whose second figure is at most the user's delta gives a valid ``k e``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable

DEEPEST = 512.0  # nats below delta to which slot deltas are tried
PRECISION = 0.01  # nats of the slot delta that the bisection may give away
GUIDED_DEPTHS = (0.02, 0.1, 0.3, 1, 2, 4)  # nats below the guide's slot delta that are tried


def log_growth(epsilon: float, group_size: int) -> float:
    """``log((exp(k e) - 1) / (exp(e) - 1))``: nats by which the group's delta exceeds a slot's."""
    if group_size * epsilon < 1e-12:
        return math.log(group_size) + group_size * epsilon  # above the exact value

    def log_expm1(x: float) -> float:
        return x + math.log(-math.expm1(-x))

    return log_expm1(group_size * epsilon) - log_expm1(epsilon)


def is_valid(epsilon: float, log_slot_delta: float, group_size: int, delta: float) -> bool:
    """Whether a slot's guarantee gives the user a guarantee at ``delta``."""
    if not math.isfinite(epsilon):
        return False
    return log_slot_delta + log_growth(epsilon, group_size) <= math.log(delta)


def upper(slot_epsilon: Callable[[float], float], group_size: int, delta: float) -> float:
    """The user's epsilon at ``delta``, infinite if no slot delta gives one.

    Args:
        slot_epsilon: upper epsilon of one slot as a function of the slot's delta.
        group_size: k, slots of the user.
        delta: of the user.
    """
    largest = slot_delta(slot_epsilon, group_size, delta)
    return group_size * slot_epsilon(largest) if largest else math.inf


def guided_upper(
    slot_epsilon: Callable[[float], float],
    guide: Callable[[float], float],
    group_size: int,
    delta: float,
) -> float:
    """As :func:`upper` for a slow ``slot_epsilon``: the slot delta is sought along ``guide``.

    A few slot deltas somewhat below the one found are then tried, and the first valid one counts.
    """
    largest = slot_delta(guide, group_size, delta)
    if largest == 0:
        return math.inf
    candidates = [largest * math.exp(-depth) for depth in GUIDED_DEPTHS]
    return first_valid(slot_epsilon, candidates, group_size, delta)


def slot_delta(slot_epsilon: Callable[[float], float], group_size: int, delta: float) -> float:
    """Largest slot delta found whose epsilon gives the user ``delta``; 0 if there is none.

    The condition need not be monotone in the slot's delta: it is scanned downwards from ``delta``
    in growing strides, then secant steps and halvings close in, always ending on a valid value.

    Args:
        slot_epsilon: upper epsilon of one slot as a function of the slot's delta.
        group_size: k, slots of the user.
        delta: of the user.
    """
    if group_size == 1:
        return delta
    log_delta = math.log(delta)

    def excess(depth: float) -> float:
        """Nats by which the group's delta exceeds ``delta``; not above 0 just where it is valid."""
        log_slot = log_delta - depth
        epsilon = slot_epsilon(math.exp(log_slot))
        if is_valid(epsilon, log_slot, group_size, delta):
            return min(0.0, log_growth(epsilon, group_size) - depth)
        if not math.isfinite(epsilon):
            return math.inf
        # Rounding may differ from that of is_valid; what is not valid must be positive.
        return max(log_growth(epsilon, group_size) - depth, sys.float_info.min)

    shallow, shallow_excess, deep = 0.0, math.inf, math.log(group_size)
    while not (deep_excess := excess(deep)) <= 0:
        if deep >= DEEPEST:
            return 0.0
        stride = 1.5 * deep_excess if math.isfinite(deep_excess) else 0.0
        deeper = min(max(1.1 * deep, deep + stride), 2 * deep, DEEPEST)
        shallow, shallow_excess, deep = deep, deep_excess, deeper
    return math.exp(log_delta - _refined(excess, shallow, shallow_excess, deep, deep_excess))


def _refined(
    excess: Callable[[float], float],
    shallow: float,
    shallow_excess: float,
    deep: float,
    deep_excess: float,
) -> float:
    """A valid depth within ``PRECISION`` of one that is not, by two secant steps to a halving."""
    turn = 0
    while deep - shallow > PRECISION:
        middle = (shallow + deep) / 2
        if turn % 3 < 2 and math.isfinite(shallow_excess):
            crossing = shallow + (deep - shallow) * shallow_excess / (shallow_excess - deep_excess)
            crossing += PRECISION / 3 if turn % 3 == 0 else -PRECISION / 3
            middle = min(max(crossing, shallow + PRECISION / 3), deep - PRECISION / 3)
        middle_excess = excess(middle)
        if middle_excess <= 0:
            deep, deep_excess = middle, middle_excess
        else:
            shallow, shallow_excess = middle, middle_excess
        turn += 1
    return deep


def first_valid(
    slot_epsilon: Callable[[float], float],
    slot_deltas: Iterable[float],
    group_size: int,
    delta: float,
) -> float:
    """The user's epsilon from the first of some slot deltas that is valid; infinite if none is."""
    for candidate in slot_deltas:
        epsilon = slot_epsilon(candidate)
        if is_valid(epsilon, math.log(candidate), group_size, delta):
            return group_size * epsilon
    return math.inf
