"""Bounds on epsilon hold as often as they say, are close, and agree with slow computations."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats

from userdp.analysis.audit import bounds

M, DELTA = 400, 1e-3


def randomised_response(source, epsilon, delta, canaries, guesses):
    """Correct guesses where each coin is revealed with probability delta, else flipped by epsilon.

    The auditor guesses the revealed coins first: the tight mechanism of Theorem 5.2.
    """
    keep = math.exp(epsilon) / (1 + math.exp(epsilon))
    revealed = min(guesses, int(source.binomial(canaries, delta)))
    return revealed + int(source.binomial(guesses - revealed, keep))


@functools.cache
def bound(correct, delta, failure):
    return bounds.one_run_epsilon(
        canaries=M, guesses=M, correct=correct, delta=delta, failure=failure
    )


@pytest.mark.parametrize(("epsilon", "delta"), [(0.5, 0.0), (2.0, 0.0), (2.0, 1e-3), (4.0, 1e-4)])
def test_the_one_run_bound_is_below_epsilon_in_95_of_100_trials_and_close_to_it(epsilon, delta):
    source = np.random.default_rng(1)
    correct = [randomised_response(source, epsilon, delta, M, M) for _ in range(400)]
    found = [bound(count, delta, 0.05) for count in correct]
    wrong = np.mean(np.array(found) > epsilon)
    assert wrong <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    assert wrong > 0.001 or delta  # not vacuous: without delta the bound is nearly exact
    assert np.median(found) > 0.6 * epsilon


def test_a_bound_of_too_little_failure_is_seen():
    """The coverage test can fail: bounds at 50 % are wrong far more often than at 95 %."""
    source = np.random.default_rng(2)
    correct = [randomised_response(source, 2.0, 0.0, M, M) for _ in range(200)]
    assert np.mean([bound(count, 0.0, 0.5) > 2.0 for count in correct]) > 0.3


def slow_p_value(m, r, v, epsilon, delta):
    """Theorem 5.2 from the binomial coefficients, without scipy."""
    p = math.exp(epsilon) / (1 + math.exp(epsilon))
    mass = [math.comb(r, i) * p**i * (1 - p) ** (r - i) for i in range(r + 1)]
    slope = max((sum(mass[v - i : v]) / i for i in range(1, v + 1)), default=0.0)
    return min(1.0, sum(mass[v:]) + 2 * m * delta * slope)


def test_the_p_value_is_that_of_the_theorem():
    for r, epsilon, delta in itertools.product((1, 7, 20), (0.0, 1.0, 3.0), (0.0, 1e-3, 0.2)):
        for v in range(r + 1):
            got = bounds.one_run_p_value(
                canaries=25, guesses=r, correct=v, epsilon=epsilon, delta=delta
            )
            assert got == pytest.approx(slow_p_value(25, r, v, epsilon, delta), rel=1e-9)


def test_the_one_run_bound_is_the_largest_epsilon_that_is_excluded():
    options = {"canaries": 100, "guesses": 60, "correct": 57}
    epsilon = bounds.one_run_epsilon(**options, delta=DELTA, failure=0.05)
    below, above = (
        bounds.one_run_p_value(**options, delta=DELTA, epsilon=epsilon + shift)
        for shift in (-1e-3, 1e-3)
    )
    assert below < 0.05 < above


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="Expected 0 <= correct"):
        bounds.one_run_p_value(canaries=5, guesses=6, correct=3, epsilon=1.0, delta=0.0)


def test_clopper_pearson_is_where_the_tail_is_the_failure():
    for count, trials in ((0, 50), (3, 50), (49, 50)):
        upper = bounds.clopper_pearson_upper(count, trials, 0.01)
        assert stats.binom.cdf(count, trials, upper) == pytest.approx(0.01)
    assert bounds.clopper_pearson_upper(50, 50, 0.01) == 1


def test_rates_give_the_epsilon_of_randomised_response():
    epsilon = 1.7
    wrong = 1 / (1 + math.exp(epsilon))
    assert bounds.rates_epsilon(wrong, wrong, 0.0) == pytest.approx(epsilon)
    assert bounds.rates_epsilon(0.5, 0.5, 0.0) == 0
    assert bounds.rates_epsilon(wrong, wrong, 0.1) < epsilon


@pytest.mark.parametrize(("mean", "std"), [(1.0, 1.0), (3.0, 0.7), (0.5, 1.6), (0.0, 0.5)])
def test_two_normals_give_the_epsilon_of_the_integrated_densities(mean, std):
    """Oracle: the hockey stick by numerical integration of the densities."""
    epsilon = bounds.two_normals_epsilon(mean, std, 1.0, DELTA)
    one, other = stats.norm(mean, std).pdf, stats.norm(0, 1).pdf

    def excess(p, q):
        ends = np.linspace(-30, 30, 601)
        parts = itertools.pairwise(ends)
        return sum(
            integrate.fixed_quad(lambda x: np.maximum(p(x) - math.exp(epsilon) * q(x), 0), *part)[0]
            for part in parts
        )

    assert max(excess(one, other), excess(other, one)) == pytest.approx(DELTA, rel=0.02)


def test_two_equal_normals_have_no_epsilon_and_the_gaussian_mechanism_its_own():
    assert bounds.two_normals_epsilon(0.0, 1.0, 1.0, DELTA) == 0
    mean = 2.0
    epsilon = bounds.two_normals_epsilon(mean * 5, 5.0, 5.0, DELTA)  # a common unit cancels
    excess = stats.norm.sf(epsilon / mean - mean / 2) - math.exp(epsilon) * stats.norm.sf(
        epsilon / mean + mean / 2
    )  # Balle and Wang, arXiv 1805.06530, Theorem 8
    assert excess == pytest.approx(DELTA, rel=1e-2)
