"""Certified epsilon of rounds with capped cohorts: truncated Poisson sampling (arXiv 2508.15089).

Each of N users is sampled with probability q; where more than ``cap`` are, a uniformly random
``cap`` of them take part. Neighbours differ in one user's records, and a user whose records are
emptied is still sampled.

*Above*: dp_accounting's privacy loss distribution of the truncated event (its pessimistic
estimate), on a grid that is halved until the value settles.

*Below*: take neighbours in which all other users contribute nothing. The user is in the cohort
with probability ``q' = E[min(Binomial(N, q), cap)] / N``, and the outputs are those of a subsampled
Gaussian of rate q', in every round independently. Two neighbours bound the worst pair from below,
so the certified lower end of that plain event is one of the capped event. Under a cap, whether a
user takes part also depends on the others, which these neighbours do not show: the two ends may lie
far apart.
"""

from __future__ import annotations

import math
from dataclasses import replace

from scipy import special

from userdp.server.accounting.events import Composition, RoundEvent
from userdp.server.accounting.pld import convolution, epsilon_bracket

SETTLED_SHARE = 4  # the value has settled when halving the step moves it by 1/4 of the wanted gap
MOST_HALVINGS = 7
COARSENESS = 8  # first step over that of plain rounds: errors of connect-the-dots are quadratic
RATE_ERROR = 1e-9  # relative, of a binomial tail


def inclusion_rate(event: RoundEvent) -> float:
    """q': probability that one user is in the capped cohort, rounded down."""
    if event.cohort_cap is None or event.population is None:
        return event.sampling_rate
    users, cap, rate = event.population, event.cohort_cap, event.sampling_rate
    below_cap = rate * (1 - _binomial_tail(cap - 2, users - 1, rate))  # E[B; B < cap] / N
    at_cap = cap / users * _binomial_tail(cap - 1, users, rate)
    return min(rate, float(below_cap + at_cap)) * (1 - RATE_ERROR)


def _binomial_tail(count: int, trials: int, rate: float) -> float:
    """Probability that a Binomial(trials, rate) exceeds ``count``."""
    if count < 0 or count >= trials:
        return float(count < 0)
    return float(special.betainc(count + 1, trials - count, rate))


def bracket(parts: Composition, delta: float, relative_gap: float) -> tuple[float, float]:
    """Certified (lower, upper) epsilon of rounds of which some are capped.

    Args:
        parts: distinct events with positive counts; at least one.
        delta: in (0, 1).
        relative_gap: the grid's step is halved until the upper end moves by a quarter of it.
    """
    step = _first_step(parts, delta)
    value = upper(parts, delta, step)
    for _ in range(MOST_HALVINGS):
        step, previous = step / 2, value
        value = min(previous, upper(parts, delta, step))
        settled = max(relative_gap / SETTLED_SHARE * value, epsilon_bracket.ABSOLUTE_GAP)
        if not math.isfinite(previous) or previous - value <= settled:
            break
    return lower(parts, delta), value


def quick_upper(parts: Composition, delta: float) -> float:
    """Upper epsilon on the first grid, for searches that take many values."""
    return upper(parts, delta, _first_step(parts, delta))


def _first_step(parts: Composition, delta: float) -> float:
    uncapped = [(event.uncapped(), count) for event, count in parts]
    return COARSENESS * epsilon_bracket.coarse_step(uncapped, delta)


def upper(parts: Composition, delta: float, step: float) -> float:
    """dp_accounting's epsilon on a grid of width ``step``, zero-out adjacency."""
    from dp_accounting import privacy_accountant  # slow to import
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(
        privacy_accountant.NeighboringRelation.REPLACE_SPECIAL,
        value_discretization_interval=step,
    )
    for event, count in parts:
        accountant.compose(event.dp_event(), count)
    return float(accountant.get_epsilon(delta))


def lower(parts: Composition, delta: float) -> float:
    """Epsilon that is certainly not above the true one: that of the neighbours described above."""
    plain = [
        (replace(event.uncapped(), sampling_rate=inclusion_rate(event)), count)
        for event, count in parts
    ]
    step = epsilon_bracket.coarse_step(plain, delta)
    while True:
        try:
            return epsilon_bracket.lower(plain, delta, step)
        except convolution.TooFineError:
            step *= 4
