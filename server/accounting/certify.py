"""Certified epsilon of a composition, by accountant and group bound: what a claim is read from."""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from userdp.server.accounting import failure_probability, group_lemma, prv, rdp
from userdp.server.accounting.events import Composition, RoundEvent, merged
from userdp.server.accounting.pld import accountant as pld
from userdp.server.accounting.pld import truncated_poisson

ACCOUNTANTS = ("pld", "prv", "rdp")
GROUP_BOUNDS = ("mixture", "lemma")
LEAST_DELTA = 1e-11
CURVE_POINTS = 32


@dataclass(frozen=True, kw_only=True)
class Epsilon:
    """Bounds of the true epsilon: at least ``lower`` (0: nothing certified), at most ``upper``.

    Add-or-remove-one-user adjacency; zero-out-one-user where a cohort is capped. ``upper`` is the
    claim; it may be ``math.inf``.
    """

    lower: float
    upper: float


def available(accountant: str, group_bound: str, event: RoundEvent) -> str | None:
    """Why this accountant refuses the event, or None if it does not."""
    if accountant not in ACCOUNTANTS:
        return f"Expected accountant in {ACCOUNTANTS}, got {accountant!r}."
    if group_bound not in GROUP_BOUNDS:
        return f"Expected group_bound in {GROUP_BOUNDS}, got {group_bound!r}."
    if accountant != "pld" and event.cohort_cap is not None:
        return (
            f"accountant={accountant!r} analyses no capped cohort (cohort_cap={event.cohort_cap}); "
            "take accountant='pld', or no cap."
        )
    if accountant != "pld" and group_bound == "mixture" and event.group_size > 1:
        return (
            f"accountant={accountant!r} analyses no mixture of Gaussians "
            f"(group_size={event.group_size}); take accountant='pld' or group_bound='lemma'."
        )
    return None


def epsilon(
    composition: Composition,
    delta: float,
    *,
    accountant: str = "pld",
    group_bound: str = "mixture",
    relative_gap: float = 0.01,
) -> Epsilon:
    """Certified epsilon of all events together at ``delta``.

    Where a guarantee may fail (`failing`), ``lower`` is 0, and ``upper`` may be infinite.

    Args:
        composition: events and how often each happened; the order does not matter.
        delta: in [1e-11, 1).
        accountant: "pld", "prv" or "rdp"; whose figure ``upper`` is.
        group_bound: "mixture" (PLD only) or "lemma", for events with several slots a user.
        relative_gap: wanted bound of the PLD's ``upper / lower - 1``; its grid is refined for it
            until the grid is full.

    Raises:
        ValueError: an argument is out of range, or the accountant refuses an event.
        ArithmeticError: an accountant's upper value lies below the certified lower one.
    """
    _check(delta, relative_gap)
    parts = merged(composition)
    for event, _ in parts or [(RoundEvent(sampling_rate=1, noise_multiplier=1), 0)]:
        if reason := available(accountant, group_bound, event):
            raise ValueError(reason)
    if not parts:
        return Epsilon(lower=0.0, upper=0.0)
    if any(event.failure_probability for event, _ in parts):
        options = {"accountant": accountant, "group_bound": group_bound}
        return _failing(parts, delta, relative_gap=relative_gap, **options)
    capped = any(event.cohort_cap is not None for event, _ in parts)
    low, high = (truncated_poisson if capped else pld).bracket(parts, delta, relative_gap)
    group_size = max(event.group_size for event, _ in parts)
    if group_size > 1 and group_bound == "lemma":
        high = _lemma_upper(_single_slots(parts), group_size, delta, accountant)
    elif accountant != "pld":
        high = _slot_curve(parts, accountant)(delta)
    if not high >= low:
        raise ArithmeticError(f"{accountant=} gives {high} below the certified {low} at {delta=}.")
    return Epsilon(lower=low, upper=high)


def quick_upper(composition: Composition, delta: float, *, group_bound: str = "mixture") -> float:
    """The PLD's upper epsilon on a first grid: as valid as :func:`epsilon`'s, at times larger.

    Raises:
        ValueError: an argument is out of range.
    """
    _check(delta, 1)
    parts = merged(composition)
    if not parts:
        return 0.0
    slack = _slack(parts)
    plain = [(event.unfailing(), count) for event, count in parts]
    group_size = max(event.group_size for event, _ in parts)

    def without_failure(left: float) -> float:
        if any(event.cohort_cap is not None for event, _ in plain):
            return truncated_poisson.quick_upper(plain, left)
        if group_size > 1 and group_bound == "lemma":
            return _lemma_upper(_single_slots(plain), group_size, left, "pld")
        return pld.quick_upper(plain, left)

    return (
        failure_probability.upper(without_failure, delta, slack, LEAST_DELTA)
        if slack
        else without_failure(delta)
    )


def epsilon_at_deltas(
    composition: Composition, deltas: Sequence[float], **options
) -> dict[float, Epsilon]:
    """:func:`epsilon` of one composition at several deltas; the rounds' loss grids are shared."""
    return {delta: epsilon(composition, delta, **options) for delta in deltas}


def slot_epsilon(composition: Composition, delta: float, **options) -> Epsilon:
    """:func:`epsilon` of one slot instead of a user: the inner figure of Group Privacy."""
    return epsilon(_single_slots(composition), delta, **options)


def affordable_rounds(
    event: RoundEvent, epsilon: float, delta: float, at_most: int, **options
) -> int:
    """Largest number of rounds, up to ``at_most``, whose upper epsilon is at most ``epsilon``.

    Raises:
        ValueError: an argument is out of range, or the accountant refuses the event.
    """
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(f"Expected a finite epsilon >= 0, got {epsilon!r}.")

    def over_budget(rounds: int) -> bool:
        return _upper(event, rounds, delta, **options) > epsilon

    if not over_budget(at_most):
        return at_most
    return bisect.bisect_left(range(at_most), True, lo=1, key=over_budget) - 1


def epsilon_curve(
    event: RoundEvent, rounds: int, delta: float, **options
) -> Callable[[int], float]:
    """A certified upper epsilon for every number of rounds up to ``rounds``, exact at ``rounds``.

    A count gets the value of the next count in a table, which is valid since epsilon grows with the
    rounds. Counts of the table are the ceilings of ``rounds * (i / CURVE_POINTS)^2``: from a
    quarter of the rounds on, a count is priced as at most 13 % more. Entries before the last are
    :func:`quick_upper`'s (mixture or lemma), whatever the accountant.

    Raises:
        ValueError: an argument is out of range, or the accountant refuses the event.
    """
    last = _upper(event, rounds, delta, **options)
    bound = options.get("group_bound", "mixture")
    fractions = [i / CURVE_POINTS for i in range(CURVE_POINTS)]
    counts = sorted({math.ceil(rounds * fraction**2) for fraction in fractions} - {rounds})
    rising = (quick_upper([(event, n)], delta, group_bound=bound) for n in counts)
    values = [min(last, value) for value in itertools.accumulate(rising, max)]
    counts, values = [*counts, rounds], [*values, last]

    def upper_after(count: int) -> float:
        if not 0 <= count <= rounds:
            raise ValueError(f"Expected 0 <= count <= {rounds}, got {count!r}.")
        return values[bisect.bisect_left(counts, count)]

    return upper_after


def _upper(event: RoundEvent, rounds: int, delta: float, **options) -> float:
    return epsilon([(event, rounds)], delta, **options).upper


def _failing(parts: Composition, delta: float, **options) -> Epsilon:
    """Epsilon of events some of whose guarantees may fail."""
    plain = [(event.unfailing(), count) for event, count in parts]

    def without_failure(left: float) -> float:
        return epsilon(plain, left, **options).upper

    high = failure_probability.upper(without_failure, delta, _slack(parts), LEAST_DELTA)
    return Epsilon(lower=0.0, upper=high)


def _slack(parts: Composition) -> float:
    """Total variation that the failures of all rounds may cost."""
    return math.fsum(event.failure_probability * count for event, count in parts)


def _check(delta: float, relative_gap: float) -> None:
    if not LEAST_DELTA <= delta < 1:
        raise ValueError(f"Expected {LEAST_DELTA} <= delta < 1, got {delta!r}.")
    if not (math.isfinite(relative_gap) and relative_gap > 0):
        raise ValueError(f"Expected a finite relative_gap > 0, got {relative_gap!r}.")


def _single_slots(composition: Composition) -> list[tuple[RoundEvent, int]]:
    return merged([(event.single_slot(), count) for event, count in composition])


def _slot_curve(parts: pld.Parts, accountant: str) -> Callable[[float], float]:
    """Upper epsilon of single-slot events as a function of delta."""
    if accountant == "pld":
        return functools.cache(functools.partial(pld.quick_upper, parts))
    if accountant == "rdp":
        return rdp.curve(parts)
    return lambda delta: prv.upper(parts, delta, about=pld.quick_upper(parts, delta))


def _lemma_upper(parts: pld.Parts, group_size: int, delta: float, accountant: str) -> float:
    """The user's epsilon by the lemma over single-slot events."""
    quick = "pld" if accountant == "prv" else accountant
    curve = _slot_curve(parts, quick)
    slot_delta = group_lemma.slot_delta(curve, group_size, delta)
    if slot_delta == 0:
        return math.inf
    if accountant == quick:
        return group_size * curve(slot_delta)
    smaller = [slot_delta * math.exp(-depth) for depth in (0.02, 0.1, 0.3, 1, 2, 4)]
    return group_lemma.first_valid(_slot_curve(parts, accountant), smaller, group_size, delta)
