"""Epsilon of capped cohorts: published figures, enumerated neighbours, and refusals."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats

from userdp.server import accounting
from userdp.server.accounting.pld import truncated_poisson

G3 = {120: 6.524, 130: 4.921, 140: 3.126, 150: 2.138, 160: 2.125, 200: 2.125}
CAPPED = accounting.RoundEvent(
    sampling_rate=0.01, noise_multiplier=1.0, population=10_000, cohort_cap=150
)


@pytest.mark.parametrize(("cap", "published"), G3.items())
def test_the_cost_of_a_cap_is_the_published_one(cap, published):
    event = dataclasses.replace(CAPPED, cohort_cap=cap)
    figure = accounting.epsilon([(event, 1000)], 1e-6)
    assert figure.upper == pytest.approx(published, rel=0.01)
    assert figure.lower <= figure.upper
    assert figure.lower == pytest.approx(2.12, rel=0.01)


@pytest.mark.parametrize("delta", [1e-4, 1e-6, 1e-9, 1e-11])
def test_a_cap_that_is_never_met_costs_nothing(delta):
    """Against our own certified ends of the uncapped round."""
    capped = accounting.epsilon([(dataclasses.replace(CAPPED, cohort_cap=500), 300)], delta)
    plain = accounting.epsilon([(CAPPED.uncapped(), 300)], delta)
    assert plain.lower <= capped.upper <= plain.upper * 1.01
    assert capped.lower == pytest.approx(plain.lower, rel=1e-4)


@functools.cache
def members(n, q, cap):
    """Probability of (user 0 is in, how many others are), by enumeration of all coins."""
    table = np.zeros((2, n))
    for coins in itertools.product((0, 1), repeat=n):
        heads = np.flatnonzero(coins)
        weight = q ** len(heads) * (1 - q) ** (n - len(heads))
        subsets = list(itertools.combinations(heads, min(cap, len(heads))))
        for kept in subsets:
            table[int(0 in kept), len(kept) - (0 in kept)] += weight / len(subsets)
    return table


@pytest.mark.parametrize("cap", [1, 2, 4, 6])
def test_the_rate_of_taking_part_is_that_of_an_enumeration(cap):
    event = dataclasses.replace(CAPPED, sampling_rate=0.4, population=6, cohort_cap=cap)
    assert truncated_poisson.inclusion_rate(event) == pytest.approx(
        members(6, 0.4, cap)[1].sum(), rel=1e-8
    )
    assert truncated_poisson.inclusion_rate(event) <= members(6, 0.4, cap)[1].sum()


OUTPUTS = np.linspace(-20, 20, 50_001)


@functools.cache
def densities(n, q, cap, z, others):
    """(2, points) of one round's output without and with a user who sends 1."""
    return [
        sum(
            weight * stats.norm.pdf(OUTPUTS, others * count + inside * filled, z)
            for inside, row in enumerate(members(n, q, cap))
            for count, weight in enumerate(row)
        )
        for filled in (0, 1)
    ]


def true_delta(epsilon, *neighbours):
    """Hockey-stick divergence, larger direction, by quadrature."""
    one, other = densities(*neighbours)
    factor = math.exp(epsilon)
    return max(
        np.trapezoid(np.maximum(p - factor * q, 0), OUTPUTS)
        for p, q in ((one, other), (other, one))
    )


@pytest.mark.parametrize("cap", [1, 2, 3, 5])
@pytest.mark.parametrize("z", [0.8, 2.0])
def test_the_ends_hold_for_neighbours_that_can_be_written_down(cap, z):
    event = accounting.RoundEvent(
        sampling_rate=0.3, noise_multiplier=z, population=6, cohort_cap=cap
    )
    for delta in (1e-2, 1e-4):
        figure = accounting.epsilon([(event, 1)], delta)
        for others in (-1.0, 0.0, 0.5, 1.0):
            assert true_delta(figure.upper, 6, 0.3, cap, z, others) <= delta
        if figure.lower > 0:
            silent = true_delta(figure.lower, 6, 0.3, cap, z, 0.0)
            assert silent == pytest.approx(delta, rel=0.05)
            assert silent >= delta * (1 - 1e-6)


def test_a_tighter_cap_costs_more_and_rounds_of_both_kinds_compose():
    uppers = [
        accounting.epsilon([(dataclasses.replace(CAPPED, cohort_cap=cap), 50)], 1e-6).upper
        for cap in (110, 125, 140, 200)
    ]
    assert uppers == sorted(uppers, reverse=True)
    one = accounting.epsilon([(CAPPED, 100)], 1e-6)
    both = accounting.epsilon([(CAPPED, 100), (CAPPED.uncapped(), 100)], 1e-6)
    assert one.upper < both.upper
    assert one.lower < both.lower


def test_calibration_and_the_curve_end_on_the_private_side():
    event = dataclasses.replace(CAPPED, cohort_cap=130)
    z = accounting.calibrate(event, 50, 2.0, 1e-6)
    noised = dataclasses.replace(event, noise_multiplier=z)
    assert 1.98 < accounting.epsilon([(noised, 50)], 1e-6).upper <= 2.0
    after = accounting.epsilon_curve(noised, 50, 1e-6)
    assert 0 == after(0) < after(10) < after(50) <= 2.0


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
def test_other_accountants_refuse(accountant):
    with pytest.raises(ValueError, match="cohort_cap=150"):
        accounting.epsilon([(CAPPED, 10)], 1e-6, accountant=accountant)


def test_nothing_takes_a_capped_round_for_a_plain_one():
    with pytest.raises(ValueError, match="cohort_cap=150"):
        CAPPED.hits()


def test_an_event_survives_the_ledger_and_half_a_cap_is_refused():
    stored = json.loads(json.dumps(CAPPED.to_dict()))
    assert accounting.RoundEvent.from_dict(stored) == CAPPED
    assert "cohort_cap" not in CAPPED.uncapped().to_dict()
    for wrong in ({"population": None}, {"cohort_cap": 0}, {"population": 9.0}, {"group_size": 2}):
        with pytest.raises(ValueError, match=r"Expected|capped"):
            dataclasses.replace(CAPPED, **wrong)
    stored.pop("population")
    with pytest.raises(ValueError, match="population"):
        accounting.RoundEvent.from_dict(stored)
