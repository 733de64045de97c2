"""Error bound of the first order and its interval, against exact sums and the theorem."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import integrate

from helpers.edgeworth_table import SETTINGS
from helpers.exact_privacy import event, summed_loss_distribution
from userdp.server import accounting
from userdp.server.accounting import RoundEvent
from userdp.server.accounting.edgeworth import estimate, finite_sample_error, loss_moments


@pytest.mark.parametrize(("index", "expected"), [(0, (0.371, 0.884)), (2, (0.354, 0.852))])
def test_errors_at_mnli_and_qqp(index, expected):
    setting = SETTINGS[index]
    moments = loss_moments.of_round(setting.event)
    sides = (moments.without, moments.with_user)
    errors = tuple(finite_sample_error.error(side, setting.rounds) for side in sides)
    assert errors == pytest.approx(expected, abs=0.01)
    assert estimate.interval(setting.event, setting.rounds, setting.delta) == (0.0, math.inf)


def theorem(shape: finite_sample_error.StandardizedMoments) -> tuple[float, float]:
    """Terms of order 1/sqrt(n) and 1/n of arXiv 2101.05780, theorem A.2, in its closed form.

    The closed form drops ``-K3~^2/(4 pi^2 n)`` from the smoothing term; the integral keeps it.
    """
    k, skew, n = shape.third_plus, shape.skewness, shape.rounds
    square = 0.031 * k**2 + 0.195 * shape.fourth + 0.054 * skew * k + 0.038 * skew**2
    dropped = k**2 / (4 * math.pi**2)
    return math.sqrt(math.pi / 2) / (2 * math.pi) * k / math.sqrt(n), (square - dropped) / n


@pytest.mark.parametrize("ev", [event(0.3, 2.0), event(0.05, 1.0)])
def test_the_error_tends_to_the_theorems_leading_terms(ev):
    rounds = 10**9
    moments = loss_moments.of_round(ev).with_user
    computed = finite_sample_error.error(moments, rounds)
    first, second = theorem(finite_sample_error.StandardizedMoments.of(moments, rounds))
    assert computed == pytest.approx(first, rel=1e-3)
    assert computed - first == pytest.approx(second, rel=0.03)


def written_out(shape: finite_sample_error.StandardizedMoments) -> float:
    """The whole bound from the paper's symbols, its integrals by Simpson's rule."""
    n, lam, k3, k3t, k4 = (
        shape.rounds, shape.skewness, shape.third, shape.third_plus, shape.fourth,
    )  # fmt: skip
    height, a = 2 * math.pi * math.sqrt(n) / k3t, 0.1
    g, split, end = 1 / (1 - 3 * a) ** 2, math.sqrt(2 * a) * (n / k4) ** 0.25, height / math.pi

    def area(function, low, high):
        x = np.linspace(low, max(low, high), 200_001)
        return integrate.simpson(function(x), x=x)

    def w(t):
        return np.exp(-((height * t) ** 2) / 2) * (1 + lam * (height * t) ** 3 / (6 * n**0.5))

    kernel = area(lambda t: (1 - t + 0.548311 * t**2) * w(t), 0, min(1 / math.pi, 30 / height))
    kernel += area(lambda t: w(t) / t, 1 / math.pi, max(1 / math.pi, 30 / height)) / math.pi
    far = 67.0415 / height**4 + 1.2187 / height**2
    p1 = (144 + 48 * a + 4 * a**2 + 96 * (2 * a) ** 0.5 + 32 * a + 16 * 2**0.5 * a**1.5) / 576
    e1, h = math.exp(a**2 * (1 / 6 + 2 * p1 * g)), 1 / 24 + p1 * g / 2

    def remainder(u):
        even = u**6 * (k4 / n) ** 1.5 / 24 + u**8 * (k4 / n) ** 2 / 576
        odd = u**5 * (k4 / n) ** 1.25 / 6 + u**6 * (k4 / n) ** 1.5 / 36
        odd += u**7 * (k4 / n) ** 1.75 / 72
        growth = u**8 * k4**2 * h**2 / (2 * n**2) + u**7 * lam * k4 * h / (6 * n**1.5)
        return (even + odd) * g / 2 + e1 * growth

    near = 0.326363 * k4 / n * (1 / 12 + g / 4) + 0.036263 * e1 * lam**2 / n
    near += 0.326363 * area(
        lambda u: np.exp(-(u**2) / 2) * remainder(u) / np.maximum(u, 1e-9), 0, split
    )

    def between(u):
        flat = 1 - 0.198324 * u * k3t / n**0.5 - (k4 / n) ** 0.5
        gaussian = lam * u**2 * np.exp(-(u**2) / 2)
        return (k3 * u**2 * np.exp(-(u**2) / 2 * flat) + gaussian) * 0.163182 / (3 * n**0.5)

    return kernel + far + near + area(between, split, min(end, 60))


@pytest.mark.parametrize(
    ("rounds", "skew", "third", "fourth"),
    [
        (40, 2.0, 2.4, 9.0),
        (3920, 21.0, 21.1, 960.0),
        (300, 0.0, 1.6, 3.0),
        (10**6, 50.0, 51.0, 9e3),
    ],
)
def test_the_error_is_the_bound_written_out(rounds, skew, third, fourth, monkeypatch):
    shape = finite_sample_error.StandardizedMoments(
        rounds=rounds, skewness=skew, third=third, third_plus=third + 0.5, fourth=fourth
    )
    monkeypatch.setattr(
        finite_sample_error.StandardizedMoments, "of", classmethod(lambda cls, moments, n: shape)
    )
    computed = finite_sample_error.error(loss_moments.of_round(event(0.5, 1.0)).without, rounds)
    assert computed == pytest.approx(written_out(shape), rel=2e-5)


def test_a_loss_and_its_negative_have_one_error():
    moments = loss_moments.of_round(event(0.2, 1.0)).with_user
    second, third, fourth, fifth = moments.central
    mirrored = replace(moments, mean=-moments.mean, central=(second, -third, fourth, -fifth))
    assert finite_sample_error.error(mirrored, 500) == finite_sample_error.error(moments, 500)


@pytest.mark.parametrize("rounds", [3, 10, 60, 250])
@pytest.mark.parametrize("ev", [event(0.5, 1.0), event(0.2, 1.0)])
def test_the_error_is_never_exceeded(ev, rounds):
    values, truth = summed_loss_distribution(ev, rounds, with_user=True)
    moments = loss_moments.of_round(ev).with_user
    cumulants = rounds * moments.cumulants()
    error = np.abs(estimate.tail(values, cumulants, 1) - (1 - truth)).max()
    assert error <= finite_sample_error.error(moments, rounds)
    assert error < 0.15


def test_the_error_is_infinite_where_the_fourth_moment_is_too_large():
    moments = loss_moments.of_round(event(0.001, 0.5)).with_user
    assert finite_sample_error.error(moments, 100) == math.inf
    assert estimate.interval(event(0.001, 0.5), 100, 0.1) == (0.0, math.inf)


NOT_VACUOUS = [
    (event(1.0, 100.0), 10_000, 0.05),
    (event(0.1, 3.0), 3000, 0.1),
    (event(0.01, 0.8), 20_000, 0.1),
    (event(0.3, 2.0), 300, 0.2),
    (event(0.05, 5.0, 5), 20_000, 0.1),
]


@pytest.mark.parametrize(("ev", "rounds", "delta"), NOT_VACUOUS)
def test_the_interval_contains_the_certified_epsilon(ev, rounds, delta):
    lower, upper = estimate.interval(ev, rounds, delta)
    certified = accounting.epsilon([(ev, rounds)], delta)
    assert 0 < lower < certified.lower <= certified.upper < upper < math.inf
    assert lower < estimate.estimate([(ev, rounds)], delta, order=1) < upper


def scanned(ev: RoundEvent, rounds: int, delta: float, e_p: float, e_q: float):
    """Ends by a slow scan of delta with both tails off by their errors, one direction at a time."""
    moments = loss_moments.of_round(ev)
    eps = np.linspace(0, 12, 24_001)
    p_above = estimate.tail(eps, rounds * moments.with_user.cumulants(), 1)
    q_above = estimate.tail(eps, rounds * moments.without.cumulants(), 1)
    q_below = estimate.tail(eps, loss_moments.negated(rounds * moments.without.cumulants()), 1)
    p_below = estimate.tail(eps, loss_moments.negated(rounds * moments.with_user.cumulants()), 1)
    lowers, uppers = [], []
    for alternative, null, e_s, e_n in [(p_above, q_above, e_p, e_q), (q_below, p_below, e_q, e_p)]:
        least = np.clip(alternative - e_s, 0, 1) - np.exp(eps) * np.clip(null + e_n, 0, 1)
        most = np.clip(alternative + e_s, 0, 1) - np.exp(eps) * np.clip(null - e_n, 0, 1)
        lowers.append(eps[least >= delta].max(initial=0))
        uppers.append(eps[most <= delta].min(initial=math.inf))
    return max(lowers), max(uppers)


@pytest.mark.parametrize(("ev", "rounds", "delta"), NOT_VACUOUS[:3])
def test_the_interval_pays_for_the_null_side_exponentially(ev, rounds, delta):
    moments = loss_moments.of_round(ev)
    sides = (moments.with_user, moments.without)
    errors = [finite_sample_error.error(side, rounds) for side in sides]
    computed = estimate.interval(ev, rounds, delta)
    assert computed == pytest.approx(scanned(ev, rounds, delta, *errors), abs=1e-3)


@pytest.mark.parametrize("errors", [(0.3, 0.0), (0.0, 0.3), (0.02, 0.0), (0.0, 0.02)])
def test_an_error_stays_with_its_distribution_in_both_directions(errors, monkeypatch):
    ev, rounds, delta = event(0.1, 3.0), 3000, 0.1
    chosen = dict(zip(("P", "Q"), errors, strict=True))
    with_user = loss_moments.of_round(ev).with_user
    monkeypatch.setattr(
        finite_sample_error, "error", lambda side, n: chosen["P" if side == with_user else "Q"]
    )
    computed = estimate.interval(ev, rounds, delta)
    assert computed == pytest.approx(scanned(ev, rounds, delta, *errors), abs=1e-3)
