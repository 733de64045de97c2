"""The Edgeworth estimate against exact sums, closed forms and the certified PLD."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from helpers.exact_privacy import event, gaussian_epsilon, summed_loss_distribution
from userdp.server import accounting
from userdp.server.accounting.edgeworth import estimate


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_an_order_more_gains_half_a_power_of_the_rounds(order):
    """Sums of n exponential variables are Gamma: cumulants n (j-1)!, exact distribution known."""

    def worst(n):
        x = n + math.sqrt(n) * np.linspace(-2.5, 2.5, 41)
        cumulants = n * np.array([1.0, 1, 2, 6, 24])
        return np.abs(estimate.tail(x, cumulants, order) - stats.gamma(n).sf(x)).max()

    gain = math.log(worst(100) / worst(1600)) / math.log(16)
    assert gain == pytest.approx((order + 1) / 2, abs=0.07)


def test_a_scaled_tail_does_not_underflow():
    cumulants = np.array([0.0, 1, 0, 0, 0])
    x = np.array(50.0)
    estimated = estimate.tail(x, cumulants, 0, log_scale=x**2 / 2)
    assert estimated == pytest.approx(1 / (50 * math.sqrt(2 * math.pi)), rel=1e-3)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("k", [1, 3])
def test_without_sampling_every_order_is_the_gaussian_mechanism(order, k):
    estimated = estimate.estimate([(event(1.0, 20.0, k), 100)], 1e-5, order=order)
    assert estimated == pytest.approx(gaussian_epsilon(k * math.sqrt(100) / 20, 1e-5), rel=1e-7)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_cumulants_of_different_events_add_up(order):
    composition = [(event(1.0, 20.0), 30), (event(1.0, 9.0), 7), (event(1.0, 31.0, 2), 40)]
    mu = math.sqrt(30 / 20**2 + 7 / 9**2 + 40 * 4 / 31**2)
    estimated = estimate.estimate(composition, 1e-6, order=order)
    assert estimated == pytest.approx(gaussian_epsilon(mu, 1e-6), rel=1e-7)


def test_a_composition_of_different_sampled_events_approaches_the_certified_value():
    rounds = [(event(0.05, 3.0), 300), (event(0.02, 2.0, 2), 500)]
    truth = accounting.epsilon(rounds, 1e-5)
    assert estimate.estimate(rounds, 1e-5, order=3) == pytest.approx(truth.upper, rel=3e-3)
    for part in rounds:
        assert estimate.estimate([part], 1e-5, order=3) < 0.85 * truth.upper


def test_order_and_grouping_of_a_composition_do_not_matter():
    a, b = event(0.05, 1.5), event(0.02, 0.9, 2)
    one = estimate.estimate([(a, 300), (b, 200)], 1e-5)
    other = estimate.estimate([(b, 150), (a, 300), (b, 50), (event(0.5, 1.0), 0)], 1e-5)
    assert one == pytest.approx(other, rel=1e-9)


def test_order_0_tends_to_the_central_limit():
    """Bu et al., arXiv 1911.11607: mu = q sqrt(T (exp(1/z^2) - 1)); a wrong scale is rejected."""
    q, z = 1e-5, 1.1
    rounds = round((0.8 / q) ** 2 / math.expm1(1 / z**2))
    estimated = estimate.estimate([(event(q, z), rounds)], 1e-5, order=0)
    limit = gaussian_epsilon(0.8, 1e-5)
    assert estimated == pytest.approx(limit, rel=1e-3)
    for wrong in (2 / 3, 3 / 2):
        assert estimated != pytest.approx(gaussian_epsilon(0.8 * wrong, 1e-5), rel=0.1)


def test_higher_orders_approach_the_certified_value():
    rounds = [(event(0.02, 2.0), 10_000)]
    truth = accounting.epsilon(rounds, 1e-5, relative_gap=1e-4)
    middle = (truth.lower + truth.upper) / 2
    errors = [abs(estimate.estimate(rounds, 1e-5, order=order) - middle) for order in range(4)]
    assert errors[0] > 2 * errors[1] > 8 * errors[2]
    assert errors[3] < 2e-4 * middle


def test_the_group_mixture_approaches_the_certified_value():
    rounds = [(event(0.01, 4.0, 10), 1000)]
    truth = accounting.epsilon(rounds, 1e-6)
    assert estimate.estimate(rounds, 1e-6, order=3) == pytest.approx(truth.upper, rel=2e-3)
    single = estimate.estimate([(event(0.01, 4.0), 1000)], 1e-6, order=3)
    assert single < truth.upper / 5


@pytest.mark.parametrize("direction", [0, 1])
def test_delta_of_either_direction_tends_to_that_of_the_exact_sum(direction):
    """Exact sums by FFT; the user's removal is log P/Q, their addition log Q/P."""
    ev, rounds, epsilons = event(0.5, 3.0), 100, np.array([0.5, 1.0, 2.0, 3.0])
    tails = []
    for with_user in (True, False):
        values, below = summed_loss_distribution(ev, rounds, with_user=with_user)
        inside = np.interp(-epsilons if direction else epsilons, values, below)
        tails.append(inside if direction else 1 - inside)
    alternative, null = tails[::-1] if direction else tails
    truth = alternative - np.exp(epsilons) * null
    way = estimate._both_directions(*estimate._summed([(ev, rounds)]))[direction]
    errors = [np.abs(way.delta(epsilons, order) - truth).max() for order in range(4)]
    assert errors[0] > 4 * errors[1] > 16 * errors[2]
    assert errors[3] < 2e-5 < 1e-3 * truth.max()


def test_the_last_crossing_counts():
    def curve(eps):
        return np.where(eps < 1, 0.5 - eps, np.exp(-((eps - 3) ** 2)))

    grid = np.linspace(0, 10, 101)
    assert estimate._last_at_least(curve, grid, 0.2) == pytest.approx(3 + math.sqrt(math.log(5)))
    assert estimate._first_at_most(curve, grid, 0.2) == pytest.approx(0.3)
    assert estimate._last_at_least(curve, grid, 2.0) == 0
    assert estimate._first_at_most(curve, grid, -1.0) == math.inf


def test_an_estimate_is_not_of_the_type_of_a_certified_epsilon():
    epsilon = estimate.estimate([(event(0.1, 2.0), 100)], 1e-5)
    assert isinstance(epsilon, float)
    assert not isinstance(epsilon, accounting.Epsilon)
    assert estimate.estimate([], 1e-5) == 0
    assert estimate.estimate([(event(1e-4, 5.0), 1)], 0.5) == 0


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda e: estimate.estimate([(e, 10)], 0.0), "delta"),
        (lambda e: estimate.estimate([(e, 10)], 1.0), "delta"),
        (lambda e: estimate.estimate([(e, 10)], math.nan), "delta"),
        (lambda e: estimate.estimate([(e, 10)], 1e-5, order=4), "order"),
        (lambda e: estimate.estimate([(e, -1)], 1e-5), "rounds"),
        (lambda e: estimate.interval(e, 0, 1e-5), "rounds"),
        (lambda e: estimate.interval(e, 10, 2.0), "delta"),
        (lambda e: estimate.calibrate(e, 0, 1.0, 1e-5), "rounds"),
        (lambda e: estimate.calibrate(e, 10, 0.0, 1e-5), "epsilon"),
        (lambda e: estimate.calibrate(e, 10, math.inf, 1e-5), "epsilon"),
        (lambda e: estimate.calibrate(e, 10, 1.0, 1e-5, order=-1), "order"),
    ],
)
def test_a_bad_argument_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call(event(0.1, 2.0))


def test_a_capped_cohort_is_refused():
    capped = replace(event(0.1, 2.0), population=1000, cohort_cap=200)
    for call in (
        lambda: estimate.estimate([(capped, 10)], 1e-5),
        lambda: estimate.interval(capped, 10, 1e-5),
        lambda: estimate.calibrate(capped, 10, 1.0, 1e-5),
    ):
        with pytest.raises(ValueError, match="cohort_cap=200"):
            call()
