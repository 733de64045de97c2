"""The Edgeworth estimate against exact sums, closed forms, the certified PLD, EW-Tune's figures."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from helpers.edgeworth_table import HEAD, SETTINGS, row
from userdp.server import accounting
from userdp.server.accounting.edgeworth import estimate, finite_sample_error
from userdp.server.accounting.edgeworth import loss_moments as moments
from userdp.server.accounting.events import RoundEvent

DOCUMENT = Path(__file__).parents[4] / "docs" / "edgeworth.md"


def event(q: float, z: float, k: int = 1) -> RoundEvent:
    return RoundEvent(sampling_rate=q, noise_multiplier=z, group_size=k)


def true_distribution(
    ev: RoundEvent, rounds: int, *, with_user: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Values and distribution function of the summed loss of one-slot rounds: fine grid, FFT."""
    z, q = ev.noise_multiplier, ev.sampling_rate
    x = np.linspace(-11 * z, 1 + 11 * z, 400_001)
    density = stats.norm.pdf(x, 0, z)
    if with_user:
        density = (1 - q) * density + q * stats.norm.pdf(x, 1, z)
    loss = np.log1p(q * np.expm1((2 * x - 1) / (2 * z**2)))
    step = (loss[-1] - loss[0]) / 4000
    cells = np.round((loss - loss[0]) / step).astype(int)
    masses = np.bincount(cells, weights=density / density.sum(), minlength=4001)
    size = 2 ** math.ceil(math.log2(4001 * rounds))
    summed = np.fft.irfft(np.fft.rfft(masses, size) ** rounds, size)
    return rounds * loss[0] + step * (np.arange(size) + 0.5), np.cumsum(summed)


# --- moments ---


def expectation(ev: RoundEvent, function, *, with_user: bool) -> float:
    """By adaptive quadrature, from the definition of the mixture; split at the mean of the loss."""
    z, q, k = ev.noise_multiplier, ev.sampling_rate, ev.group_size

    hits = stats.binom.pmf(range(k + 1), k, q) if with_user else [1.0]

    def density(x):
        return sum(p * math.exp(-(((x - i) / z) ** 2) / 2) for i, p in enumerate(hits)) / (
            z * math.sqrt(2 * math.pi)
        )

    points = np.linspace(-13 * z, k + 13 * z, 60)
    pieces = itertools.pairwise(points)
    return sum(integrate.quad(lambda x: density(x) * function(x), a, b)[0] for a, b in pieces)


def loss_of(ev: RoundEvent):
    """log P/Q, written out: for one slot the form of the paper."""
    z, q, k = ev.noise_multiplier, ev.sampling_rate, ev.group_size
    if k == 1:
        return lambda x: math.log(1 - q + q * math.exp(x / z**2 - 1 / (2 * z**2)))
    hits = [stats.binom.pmf(i, k, q) for i in range(k + 1)]
    return lambda x: math.log(
        sum(p * math.exp((2 * i * x - i * i) / (2 * z * z)) for i, p in enumerate(hits))
    )


@pytest.mark.parametrize("ev", [event(0.02, 0.7), event(0.3, 2.0), event(0.05, 1.2, 3)])
@pytest.mark.parametrize("with_user", [True, False])
def test_moments_are_those_of_adaptive_quadrature(ev, with_user):
    found = moments.of_round(ev)
    got = found.with_user if with_user else found.without
    loss = loss_of(ev)

    def mean_of(function):
        return expectation(ev, lambda x: function(loss(x)), with_user=with_user)

    mean = mean_of(lambda value: value)
    assert got.mean == pytest.approx(mean, rel=1e-9)
    for j, moment in zip((2, 3, 4, 5), got.central, strict=True):
        assert moment == pytest.approx(mean_of(lambda v, j=j: (v - mean) ** j), rel=1e-8)
    for j, moment in zip((1, 3), got.absolute, strict=True):
        assert moment == pytest.approx(mean_of(lambda v, j=j: abs(v - mean) ** j), rel=2e-5)


def test_cumulants_are_derivatives_of_the_log_moment_generating_function():
    """By Cauchy's formula, from a circle around 0; losses from a grid of the test's own."""
    q, z, radius = 0.2, 1.0, 0.5
    x = np.linspace(-12, 13, 5001)
    loss = np.log(1 - q + q * np.exp(x - 0.5))
    weight = (1 - q) * stats.norm.pdf(x) + q * stats.norm.pdf(x - 1)
    circle = radius * np.exp(2j * np.pi * np.arange(64) / 64)
    log_mgf = np.log([(weight * np.exp(t * loss)).sum() / weight.sum() for t in circle])
    series = np.fft.fft(log_mgf).real / 64
    wanted = [series[j] / radius**j * math.factorial(j) for j in range(1, 6)]
    assert moments.of_round(event(q, z)).with_user.cumulants() == pytest.approx(wanted, rel=1e-8)


def test_a_loss_below_rounding_is_refused():
    with pytest.raises(ValueError, match="too small"):
        moments.of_round(event(1e-9, 1e5))


# --- the expansion ---


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
    got = estimate.tail(x, cumulants, 0, log_scale=x**2 / 2)
    assert got == pytest.approx(1 / (50 * math.sqrt(2 * math.pi)), rel=1e-3)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Closed form of the Gaussian mechanism (Balle & Wang, arXiv 1805.06530)."""

    def excess(eps):
        below, above = stats.norm.cdf(mu / 2 - eps / mu), stats.norm.logcdf(-mu / 2 - eps / mu)
        return below - math.exp(eps + above) - delta

    return optimize.brentq(excess, 0, 100)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("k", [1, 3])
def test_without_sampling_every_order_is_the_gaussian_mechanism(order, k):
    got = estimate.estimate([(event(1.0, 20.0, k), 100)], 1e-5, order=order)
    assert got == pytest.approx(gaussian_epsilon(k * math.sqrt(100) / 20, 1e-5), rel=1e-7)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_cumulants_of_different_events_add_up(order):
    composition = [(event(1.0, 20.0), 30), (event(1.0, 9.0), 7), (event(1.0, 31.0, 2), 40)]
    mu = math.sqrt(30 / 20**2 + 7 / 9**2 + 40 * 4 / 31**2)
    got = estimate.estimate(composition, 1e-6, order=order)
    assert got == pytest.approx(gaussian_epsilon(mu, 1e-6), rel=1e-7)


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
    got = estimate.estimate([(event(q, z), rounds)], 1e-5, order=0)
    limit = gaussian_epsilon(0.8, 1e-5)
    assert got == pytest.approx(limit, rel=1e-3)
    for wrong in (2 / 3, 3 / 2):
        assert got != pytest.approx(gaussian_epsilon(0.8 * wrong, 1e-5), rel=0.1)


def test_higher_orders_approach_the_certified_value():
    rounds = [(event(0.02, 2.0), 10_000)]
    truth = accounting.epsilon(rounds, 1e-5, relative_gap=1e-4)
    middle = (truth.lower + truth.upper) / 2
    misses = [abs(estimate.estimate(rounds, 1e-5, order=order) - middle) for order in range(4)]
    assert misses[0] > 2 * misses[1] > 8 * misses[2]
    assert misses[3] < 2e-4 * middle


def test_the_group_mixture_approaches_the_certified_value():
    rounds = [(event(0.01, 4.0, 10), 1000)]
    truth = accounting.epsilon(rounds, 1e-6)
    assert estimate.estimate(rounds, 1e-6, order=3) == pytest.approx(truth.upper, rel=2e-3)
    single = estimate.estimate([(event(0.01, 4.0), 1000)], 1e-6, order=3)
    assert single < truth.upper / 5


@pytest.mark.parametrize("way", [0, 1])
def test_delta_of_either_direction_tends_to_that_of_the_exact_sum(way):
    """Exact sums by FFT; the user's removal is log P/Q, their addition log Q/P."""
    ev, rounds, epsilons = event(0.5, 3.0), 100, np.array([0.5, 1.0, 2.0, 3.0])
    tails = []
    for with_user in (True, False):
        values, below = true_distribution(ev, rounds, with_user=with_user)
        inside = np.interp(-epsilons if way else epsilons, values, below)
        tails.append(inside if way else 1 - inside)
    shown, null = tails[::-1] if way else tails
    truth = shown - np.exp(epsilons) * null
    direction = estimate._both_directions(*estimate._summed([(ev, rounds)]))[way]
    misses = [np.abs(direction.delta(epsilons, order) - truth).max() for order in range(4)]
    assert misses[0] > 4 * misses[1] > 16 * misses[2]
    assert misses[3] < 2e-5 < 1e-3 * truth.max()


def test_the_last_crossing_counts():
    def curve(eps):
        return np.where(eps < 1, 0.5 - eps, np.exp(-((eps - 3) ** 2)))

    grid = np.linspace(0, 10, 101)
    assert estimate._last_at_least(curve, grid, 0.2) == pytest.approx(3 + math.sqrt(math.log(5)))
    assert estimate._first_at_most(curve, grid, 0.2) == pytest.approx(0.3)
    assert estimate._last_at_least(curve, grid, 2.0) == 0
    assert estimate._first_at_most(curve, grid, -1.0) == math.inf


def test_the_rarer_direction_does_not_take_over():
    """At odd orders its negative tails, e^eps times, would: 8.57 at MNLI in the place of 8.00."""
    setting = SETTINGS[0]
    removal, addition = estimate._both_directions(
        *estimate._summed([(setting.event, setting.rounds)])
    )
    for order in range(4):
        reached = [way.last_epsilon(1e-5, order) for way in (removal, addition)]
        assert reached[1] < 0.7 * reached[0]


# --- EW-Tune ---

ESTIMATES = [
    [7.30, 8.00, 8.53, 8.97], [7.34, 7.99, 8.49, 8.92],
    [7.30, 7.99, 8.52, 8.95], [7.34, 7.98, 8.48, 8.90],
    [7.40, 8.00, 8.41, 8.72], [7.43, 7.99, 8.39, 8.70],
    [7.43, 7.99, 8.37, 8.63],
]  # fmt: skip
settings = pytest.mark.parametrize("place", range(len(SETTINGS)))


@settings
def test_ew_tunes_noise_is_what_order_1_asks_for(place):
    s = SETTINGS[place]
    z = estimate.calibrate(s.event, s.rounds, 8.0, s.delta, order=1)
    assert z == pytest.approx(s.noise_multiplier, rel=0.005)
    reached = estimate.estimate(
        [(RoundEvent(sampling_rate=s.event.sampling_rate, noise_multiplier=z), s.rounds)],
        s.delta,
        order=1,
    )
    assert 8 * 0.996 <= reached <= 8


@settings
def test_estimates_at_ew_tunes_noise(place):
    assert SETTINGS[place].estimates() == pytest.approx(ESTIMATES[place], abs=0.02)


def test_no_order_is_a_bound():
    for setting in SETTINGS:
        assert setting.estimates()[1] < setting.certified().lower - 0.25
    qnli, mnli = SETTINGS[4], SETTINGS[0]
    assert qnli.estimates()[3] > qnli.certified().upper  # above the truth here,
    assert mnli.estimates()[3] < mnli.certified().lower  # below it there
    errors = [abs(value - qnli.certified().upper) for value in qnli.estimates()]
    assert errors[3] < errors[1] < errors[0]


def documented() -> list[list[str]]:
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def numbers(cell: str) -> list[float]:
    return [float(part) for part in cell.strip("[]").replace("/", ",").split(",")]


@pytest.mark.slow
def test_the_table_in_the_documentation_is_what_the_code_says():
    head, _, *rows = documented()
    assert head == HEAD
    for got, setting in zip(rows, SETTINGS, strict=True):
        wanted = row(setting)
        assert got[0] == wanted[0]
        for cell, fresh in zip(got[1:], wanted[1:], strict=True):
            assert numbers(cell) == pytest.approx(numbers(fresh), rel=0.004)


# --- the finite-sample interval ---


@pytest.mark.parametrize(("place", "wanted"), [(0, (0.371, 0.884)), (2, (0.354, 0.852))])
def test_errors_at_mnli_and_qqp(place, wanted):
    s = SETTINGS[place]
    found = moments.of_round(s.event)
    assert finite_sample_error.error(found.without, s.rounds) == pytest.approx(wanted[0], abs=0.01)
    assert finite_sample_error.error(found.with_user, s.rounds) == pytest.approx(
        wanted[1], abs=0.01
    )
    assert estimate.interval(s.event, s.rounds, s.delta) == (0.0, math.inf)


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
    found = moments.of_round(ev).with_user
    got = finite_sample_error.error(found, rounds)
    first, second = theorem(finite_sample_error.StandardizedMoments.of(found, rounds))
    assert got == pytest.approx(first, rel=1e-3)
    assert got - first == pytest.approx(second, rel=0.03)


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
    got = finite_sample_error.error(moments.of_round(event(0.5, 1.0)).without, rounds)
    assert got == pytest.approx(written_out(shape), rel=2e-5)


def test_a_loss_and_its_negative_have_one_error():
    found = moments.of_round(event(0.2, 1.0)).with_user
    second, third, fourth, fifth = found.central
    mirrored = replace(found, mean=-found.mean, central=(second, -third, fourth, -fifth))
    assert finite_sample_error.error(mirrored, 500) == finite_sample_error.error(found, 500)


@pytest.mark.parametrize("rounds", [3, 10, 60, 250])
@pytest.mark.parametrize("ev", [event(0.5, 1.0), event(0.2, 1.0)])
def test_the_error_is_never_exceeded(ev, rounds):
    values, truth = true_distribution(ev, rounds, with_user=True)
    found = moments.of_round(ev).with_user
    cumulants = rounds * found.cumulants()
    miss = np.abs(estimate.tail(values, cumulants, 1) - (1 - truth)).max()
    assert miss <= finite_sample_error.error(found, rounds)
    assert miss < 0.15


def test_the_error_is_infinite_where_the_fourth_moment_is_too_large():
    found = moments.of_round(event(0.001, 0.5)).with_user
    assert finite_sample_error.error(found, 100) == math.inf
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
    found = moments.of_round(ev)
    eps = np.linspace(0, 12, 24_001)
    p_above = estimate.tail(eps, rounds * found.with_user.cumulants(), 1)
    q_above = estimate.tail(eps, rounds * found.without.cumulants(), 1)
    q_below = estimate.tail(eps, moments.negated(rounds * found.without.cumulants()), 1)
    p_below = estimate.tail(eps, moments.negated(rounds * found.with_user.cumulants()), 1)
    lowers, uppers = [], []
    for shown, null, e_s, e_n in [(p_above, q_above, e_p, e_q), (q_below, p_below, e_q, e_p)]:
        least = np.clip(shown - e_s, 0, 1) - np.exp(eps) * np.clip(null + e_n, 0, 1)
        most = np.clip(shown + e_s, 0, 1) - np.exp(eps) * np.clip(null - e_n, 0, 1)
        lowers.append(eps[least >= delta].max(initial=0))
        uppers.append(eps[most <= delta].min(initial=math.inf))
    return max(lowers), max(uppers)


@pytest.mark.parametrize(("ev", "rounds", "delta"), NOT_VACUOUS[:3])
def test_the_interval_pays_for_the_null_side_exponentially(ev, rounds, delta):
    found = moments.of_round(ev)
    errors = [finite_sample_error.error(side, rounds) for side in (found.with_user, found.without)]
    got = estimate.interval(ev, rounds, delta)
    assert got == pytest.approx(scanned(ev, rounds, delta, *errors), abs=1e-3)


@pytest.mark.parametrize("errors", [(0.3, 0.0), (0.0, 0.3), (0.02, 0.0), (0.0, 0.02)])
def test_an_error_stays_with_its_distribution_in_both_directions(errors, monkeypatch):
    ev, rounds, delta = event(0.1, 3.0), 3000, 0.1
    chosen = dict(zip(("P", "Q"), errors, strict=True))
    with_user = moments.of_round(ev).with_user
    monkeypatch.setattr(
        finite_sample_error, "error", lambda side, n: chosen["P" if side == with_user else "Q"]
    )
    got = estimate.interval(ev, rounds, delta)
    assert got == pytest.approx(scanned(ev, rounds, delta, *errors), abs=1e-3)


# --- the boundary ---


def test_nothing_here_is_an_epsilon_of_the_certified_kind():
    found = estimate.estimate([(event(0.1, 2.0), 100)], 1e-5)
    assert isinstance(found, float)
    assert not isinstance(found, accounting.Epsilon)
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
