"""Certified lower and upper epsilon of a composition, on which every claim of privacy rests.

The lower end is always that of our privacy loss distributions (PLD); the upper end is the figure of
the accountant asked for, whose entry in `accountants` says what it analyses.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from userdp.server.accounting import accountants, failure_probability, group_lemma
from userdp.server.accounting.accountants import GROUP_BOUNDS, CertifiedAccountant
from userdp.server.accounting.events import Composition, RoundEvent, merged
from userdp.server.accounting.pld import epsilon_bracket, truncated_poisson

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
    """Why this accountant certifies no epsilon of the event, or None if it does.

    Raises:
        ConfigurationError: there is no such accountant; the message lists those there are.
    """
    if not accountants.find(accountant).certified:
        return _only_estimates(accountant)
    return accountants.refusal(accountant, group_bound, event)


def epsilon(
    composition: Composition,
    delta: float,
    *,
    accountant: str = accountants.DEFAULT,
    group_bound: str = "mixture",
    relative_gap: float = 0.01,
) -> Epsilon:
    """Certified epsilon of all events together at ``delta``.

    Where a guarantee may fail (`failure_probability`), ``lower`` is 0, and ``upper`` may be
    infinite.

    Args:
        composition: events and how often each happened; the order does not matter.
        delta: in [1e-11, 1).
        accountant: name of the accountant whose figure ``upper`` is, in `accountants`; or the
            dotted name of a ``CertifiedAccountant`` outside userdp.
        group_bound: "mixture" or "lemma", for events with several slots a user.
        relative_gap: wanted bound of the PLD's ``upper / lower - 1``; its grid is refined for it
            until the grid is full.

    Raises:
        ValueError: an argument is out of range, or the accountant refuses an event or only
            estimates.
        ArithmeticError: an accountant's upper value lies below the certified lower one.
    """
    _check(delta, relative_gap, group_bound)
    parts = merged(composition)
    entry = _certified_accountant(accountant, group_bound, parts)
    if not parts:
        return Epsilon(lower=0.0, upper=0.0)
    if any(event.failure_probability for event, _ in parts):
        return _epsilon_with_failures(
            parts, delta, accountant=accountant, group_bound=group_bound, relative_gap=relative_gap
        )
    capped = any(event.cohort_cap is not None for event, _ in parts)
    bracket = truncated_poisson.bracket if capped else epsilon_bracket.bracket
    low, high = bracket(parts, delta, relative_gap)
    group_size = max(event.group_size for event, _ in parts)
    if group_size > 1 and group_bound == "lemma":
        high = _lemma_upper(_single_slots(parts), group_size, delta, entry)
    elif not entry.is_bracket:
        high = entry.curve(parts)(delta)
    if not high >= low:
        raise ArithmeticError(f"{accountant=} gives {high} below the certified {low} at {delta=}.")
    return Epsilon(lower=low, upper=high)


def quick_upper(composition: Composition, delta: float, *, group_bound: str = "mixture") -> float:
    """The PLD's upper epsilon on a coarse grid: as valid as :func:`epsilon`'s, at times larger.

    Raises:
        ValueError: an argument is out of range.
    """
    _check(delta, 1, group_bound)
    parts = merged(composition)
    if not parts:
        return 0.0
    total_failure = _total_failure_probability(parts)
    unfailing = _unfailing(parts)
    group_size = max(event.group_size for event, _ in parts)

    def upper_without_failures(remaining_delta: float) -> float:
        if any(event.cohort_cap is not None for event, _ in unfailing):
            return truncated_poisson.quick_upper(unfailing, remaining_delta)
        if group_size > 1 and group_bound == "lemma":
            slot_curve = epsilon_bracket.quick_curve(_single_slots(unfailing))
            return group_lemma.upper(slot_curve, group_size, remaining_delta)
        return epsilon_bracket.quick_upper(unfailing, remaining_delta)

    if not total_failure:
        return upper_without_failures(delta)
    return failure_probability.upper(upper_without_failures, delta, total_failure, LEAST_DELTA)


def epsilon_at_deltas(
    composition: Composition,
    deltas: Sequence[float],
    *,
    accountant: str = accountants.DEFAULT,
    group_bound: str = "mixture",
) -> dict[float, Epsilon]:
    """:func:`epsilon` of one composition at several deltas; the rounds' loss grids are shared.

    Raises:
        ValueError: as :func:`epsilon`.
    """
    return {
        delta: epsilon(composition, delta, accountant=accountant, group_bound=group_bound)
        for delta in deltas
    }


def slot_epsilon(
    composition: Composition, delta: float, *, accountant: str = accountants.DEFAULT
) -> Epsilon:
    """:func:`epsilon` of one slot instead of a user: the record-level figure of Group Privacy.

    Raises:
        ValueError: as :func:`epsilon`.
    """
    return epsilon(_single_slots(composition), delta, accountant=accountant)


def affordable_rounds(
    event: RoundEvent,
    epsilon: float,
    delta: float,
    at_most: int,
    *,
    accountant: str = accountants.DEFAULT,
    group_bound: str = "mixture",
) -> int:
    """Largest number of rounds, up to ``at_most``, whose upper epsilon is at most ``epsilon``.

    Raises:
        ValueError: an argument is out of range, or the accountant refuses the event.
    """
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(f"Expected a finite epsilon >= 0, got {epsilon!r}.")

    def over_budget(rounds: int) -> bool:
        return _upper(event, rounds, delta, accountant, group_bound) > epsilon

    if not over_budget(at_most):
        return at_most
    return bisect.bisect_left(range(at_most), True, lo=1, key=over_budget) - 1


def epsilon_curve(
    event: RoundEvent,
    rounds: int,
    delta: float,
    *,
    accountant: str = accountants.DEFAULT,
    group_bound: str = "mixture",
) -> Callable[[int], float]:
    """A certified upper epsilon for every number of rounds up to ``rounds``, exact at ``rounds``.

    A number of rounds gets the value of the next one in a table, which is valid since epsilon grows
    with the rounds. The table holds the ceilings of ``rounds * (i / CURVE_POINTS)^2``: from a
    quarter of the rounds on, a number gets the value of one at most 13 % larger. All entries but
    the last are :func:`quick_upper`'s, whatever the accountant.

    Returns:
        A function from a number of rounds to its upper epsilon; it raises a ValueError outside
        0 to ``rounds``.

    Raises:
        ValueError: an argument is out of range, or the accountant refuses the event.
    """
    last = _upper(event, rounds, delta, accountant, group_bound)
    fractions = [i / CURVE_POINTS for i in range(CURVE_POINTS)]
    counts = sorted({math.ceil(rounds * fraction**2) for fraction in fractions} - {rounds})
    quick = (quick_upper([(event, count)], delta, group_bound=group_bound) for count in counts)
    values = [min(last, value) for value in itertools.accumulate(quick, max)]
    counts, values = [*counts, rounds], [*values, last]

    def upper_after(count: int) -> float:
        if not 0 <= count <= rounds:
            raise ValueError(f"Expected 0 <= count <= {rounds}, got {count!r}.")
        return values[bisect.bisect_left(counts, count)]

    return upper_after


def _upper(
    event: RoundEvent, rounds: int, delta: float, accountant: str, group_bound: str
) -> float:
    parts = [(event, rounds)]
    return epsilon(parts, delta, accountant=accountant, group_bound=group_bound).upper


def _epsilon_with_failures(
    parts: Composition, delta: float, *, accountant: str, group_bound: str, relative_gap: float
) -> Epsilon:
    """Epsilon of events some of whose guarantees may fail."""
    unfailing = _unfailing(parts)

    def upper_without_failures(remaining_delta: float) -> float:
        return epsilon(
            unfailing,
            remaining_delta,
            accountant=accountant,
            group_bound=group_bound,
            relative_gap=relative_gap,
        ).upper

    total_failure = _total_failure_probability(parts)
    high = failure_probability.upper(upper_without_failures, delta, total_failure, LEAST_DELTA)
    return Epsilon(lower=0.0, upper=high)


def _unfailing(parts: Composition) -> list[tuple[RoundEvent, int]]:
    return [(event.unfailing(), count) for event, count in parts]


def _total_failure_probability(parts: Composition) -> float:
    """Bound of the probability that any round's guarantee fails: the sum over all rounds."""
    return math.fsum(event.failure_probability * count for event, count in parts)


def _check(delta: float, relative_gap: float, group_bound: str) -> None:
    if not LEAST_DELTA <= delta < 1:
        raise ValueError(f"Expected {LEAST_DELTA} <= delta < 1, got {delta!r}.")
    if not (math.isfinite(relative_gap) and relative_gap > 0):
        raise ValueError(f"Expected a finite relative_gap > 0, got {relative_gap!r}.")
    if group_bound not in GROUP_BOUNDS:
        raise ValueError(f"Expected group_bound in {GROUP_BOUNDS}, got {group_bound!r}.")


def _certified_accountant(
    accountant: str, group_bound: str, parts: Composition
) -> CertifiedAccountant:
    """The accountant's entry, if it certifies its figures and analyses all of the events."""
    entry = accountants.find(accountant)
    if not isinstance(entry, CertifiedAccountant):
        raise ValueError(_only_estimates(accountant))
    for event, _ in parts:
        if reason := accountants.refusal(accountant, group_bound, event):
            raise ValueError(reason)
    return entry


def _only_estimates(accountant: str) -> str:
    return (
        f"accountant={accountant!r} only estimates, and no claim rests on an estimate; "
        f"take one of {', '.join(accountants.certified_names())}."
    )


def _single_slots(composition: Composition) -> list[tuple[RoundEvent, int]]:
    return merged([(event.single_slot(), count) for event, count in composition])


def _lemma_upper(
    slots: Composition, group_size: int, delta: float, entry: CertifiedAccountant
) -> float:
    """The user's upper epsilon, by the group privacy lemma over single-slot events."""
    curve = entry.curve(slots)
    if not entry.slow:
        return group_lemma.upper(curve, group_size, delta)
    quick = epsilon_bracket.quick_curve(slots)
    return group_lemma.guided_upper(curve, quick, group_size, delta)
