"""Epsilon of rounds whose cohort is capped: truncated Poisson sampling (arXiv 2508.15089).

Each of N places draws a coin of probability q; where more than ``cap`` come up, a uniformly random
``cap`` of them stay. Neighbours differ in one user's records, and an emptied place still draws.

*Above*: dp_accounting's privacy loss distribution of the truncated event (its pessimistic
estimate), on a grid that is halved until the value settles.

*Below*: take neighbours in which all other users contribute nothing. The user is in the cohort
with probability ``q' = E[min(Binomial(N, q), cap)] / N``, and the outputs are those of a subsampled
Gaussian of rate q', in every round independently. Two neighbours bound the worst pair from below,
so the certified lower end of that plain event is one of the capped event. A cap also ties a user's
part to the others', which these neighbours do not show: the ends may lie far apart.
"""

from __future__ import annotations

import math
from dataclasses import replace

from scipy import special

from userdp.server.accounting.events import Composition, RoundEvent
from userdp.server.accounting.pld import convolution, epsilon_bracket

SETTLED = 4  # share of the wanted gap by which halving the grid may still move the value: 1/4
MOST_HALVINGS = 7
COARSEST = 8  # times the step of the plain rounds: connected dots err with its square
RATE_ERROR = 1e-9  # relative, of a binomial tail


def inclusion_rate(event: RoundEvent) -> float:
    """q': probability that one user is in the cohort after the cap, rounded down."""
    if event.cohort_cap is None or event.population is None:
        return event.sampling_rate
    users, cap, rate = event.population, event.cohort_cap, event.sampling_rate
    within = rate * (1 - _more_than(cap - 2, users - 1, rate))  # E[B; B < cap] / N
    full = cap / users * _more_than(cap - 1, users, rate)
    return min(rate, float(within + full)) * (1 - RATE_ERROR)


def _more_than(heads: int, coins: int, rate: float) -> float:
    """Probability that more than so many of the coins come up (the binomial's upper tail)."""
    if heads < 0 or heads >= coins:
        return float(heads < 0)
    return float(special.betainc(heads + 1, coins - heads, rate))


def bracket(parts: Composition, delta: float, relative_gap: float) -> tuple[float, float]:
    """Certified (lower, upper) epsilon of rounds of which some are capped."""
    step = _first_step(parts, delta)
    value = upper(parts, delta, step)
    for _ in range(MOST_HALVINGS):
        step, before = step / 2, value
        value = min(before, upper(parts, delta, step))
        if not math.isfinite(before) or before - value <= max(
            relative_gap / SETTLED * value, epsilon_bracket.ABSOLUTE_GAP
        ):
            break
    return lower(parts, delta), value


def quick_upper(parts: Composition, delta: float) -> float:
    """Upper epsilon on the first grid: for bounds that take many of them."""
    return upper(parts, delta, _first_step(parts, delta))


def _first_step(parts: Composition, delta: float) -> float:
    return COARSEST * epsilon_bracket.coarse_step(
        [(event.uncapped(), count) for event, count in parts], delta
    )


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
    """Epsilon that these rounds certainly reach, between the neighbours described above."""
    reached = [
        (replace(event.uncapped(), sampling_rate=inclusion_rate(event)), count)
        for event, count in parts
    ]
    step = epsilon_bracket.coarse_step(reached, delta)
    while True:
        try:
            return epsilon_bracket.lower(reached, delta, step)
        except convolution.TooFineError:
            step *= 4
