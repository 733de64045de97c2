"""Target epsilon to noise multiplier: private, tight, and equal to the published table."""

import math
from dataclasses import replace

import numpy as np
import pytest

from userdp.server import accounting
from userdp.server.accounting import certify
from userdp.server.accounting.pld import convolution, truncated_poisson
from userdp.sim.common.root_finding import TOLERANCE, falling_root

RATE, ROUNDS, DELTA = 0.032, 500, 1e-5  # 64 of 2,000 users a step
TABLE = {  # (epsilon, group size): noise multiplier by the mixture; group size 1 is user-wise
    **{(1, 1): 2.832, (1, 2): 5.463, (1, 5): 13.450, (1, 10): 26.796},
    **{(3, 1): 1.266, (3, 2): 2.181, (3, 5): 5.104, (3, 10): 10.057},
    **{(8, 1): 0.780, (8, 2): 1.144, (8, 5): 2.333, (8, 10): 4.433},
}
LEMMA = {  # where the published table's grid (interval 1e-3) was fine enough
    **{(1, 2): 5.485, (3, 2): 2.216, (3, 5): 5.217, (3, 10): 10.348},
    **{(8, 2): 1.212, (8, 5): 2.523, (8, 10): 4.819},
}
# The same grid where it was too coarse: more noise than needed.
LEMMA_COARSE = {(1, 5): 13.681, (1, 10): 28.566}


def event(noise: float, group_size: int = 1, rate: float = RATE) -> accounting.RoundEvent:
    return accounting.RoundEvent(sampling_rate=rate, noise_multiplier=noise, group_size=group_size)


def spent(noise: float, group_size: int, **options) -> accounting.Epsilon:
    return accounting.epsilon([(event(noise, group_size), ROUNDS)], DELTA, **options)


@pytest.mark.parametrize(("target", "group_size"), TABLE)
def test_mixture_table(target, group_size):
    noise = accounting.calibrate(event(1.0, group_size), ROUNDS, target, DELTA)
    assert noise == pytest.approx(TABLE[target, group_size], rel=0.004)
    assert spent(noise, group_size).upper <= target
    # Certified: at most 1.5 % too much noise.
    assert spent(noise * 0.985, group_size).lower > target


@pytest.mark.parametrize(("target", "group_size"), LEMMA)
def test_lemma_table(target, group_size):
    options = {"group_bound": "lemma"}
    noise = accounting.calibrate(event(1.0, group_size), ROUNDS, target, DELTA, **options)
    assert noise == pytest.approx(LEMMA[target, group_size], rel=0.008)
    assert spent(noise, group_size, **options).upper <= target
    assert spent(noise * 0.985, group_size, **options).upper > target


@pytest.mark.parametrize(("target", "group_size"), LEMMA_COARSE)
def test_lemma_needs_less_noise_on_a_finer_grid(target, group_size):
    noise = accounting.calibrate(event(1.0, group_size), ROUNDS, target, DELTA, group_bound="lemma")
    assert TABLE[target, group_size] < noise < LEMMA_COARSE[target, group_size]
    assert spent(noise, group_size, group_bound="lemma").upper <= target


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("accountant", "group_size"), [("prv", 1), ("rdp", 1), ("rdp", 5), ("prv", 5)]
)
def test_other_accountants_end_on_the_private_side(accountant, group_size):
    options = {"accountant": accountant, "group_bound": "lemma"}
    noise = accounting.calibrate(event(1.0, group_size), ROUNDS, 3.0, DELTA, **options)
    assert spent(noise, group_size, **options).upper <= 3.0
    assert spent(noise * 0.985, group_size, **options).upper > 3.0
    assert noise > TABLE[3, group_size]


@pytest.mark.parametrize(
    ("rate", "group_size", "rounds", "target", "delta"),
    [
        (0.001, 1, 10_000, 1.0, 1e-8),
        (1.0, 1, 1, 8.0, 1e-5),
        (0.3, 1, 10, 0.01, 1e-6),
        (0.05, 3, 10_000, 50.0, 1e-6),
        (0.01, 50, 2000, 5.0, 1e-6),
    ],
)
def test_far_corners_are_private_and_tight(rate, group_size, rounds, target, delta):
    def bounds(noise):
        return accounting.epsilon([(event(noise, group_size, rate), rounds)], delta)

    noise = accounting.calibrate(event(1.0, group_size, rate), rounds, target, delta)
    assert bounds(noise).upper <= target < bounds(noise * 0.985).lower


CHEAP = [  # rate, group size, rounds, target, delta, group bound
    (0.001, 1, 10_000, 1.0, 1e-6, "mixture"),
    (0.01, 1, 100, 0.5, 1e-5, "mixture"),
    (0.1, 2, 10_000, 8.0, 1e-5, "mixture"),
    (0.001, 64, 10_000, 8.0, 1e-6, "mixture"),
    (0.1, 10, 1000, 0.5, 1e-6, "mixture"),
    (0.01, 32, 10_000, 1.0, 1e-5, "lemma"),
]


@pytest.mark.parametrize(("rate", "group_size", "rounds", "target", "delta", "bound"), CHEAP)
def test_the_noise_is_that_of_a_search_by_full_evaluations(
    rate, group_size, rounds, target, delta, bound
):
    def upper(noise: float, gap: float = 0.01) -> float:
        parts = [(event(noise, group_size, rate), rounds)]
        return accounting.epsilon(parts, delta, group_bound=bound, relative_gap=gap).upper

    noise = accounting.calibrate(
        event(1.0, group_size, rate), rounds, target, delta, group_bound=bound
    )
    assert target * (1 - TOLERANCE) <= upper(noise) <= target
    assert upper(noise, gap=1e-4) <= target  # the finest grids agree
    assert noise == pytest.approx(falling_root(upper, target, 1.0), rel=0.004)


@pytest.mark.parametrize(("rate", "group_size", "rounds", "target", "delta", "bound"), CHEAP)
def test_a_calibration_takes_few_evaluations(
    monkeypatch, rate, group_size, rounds, target, delta, bound
):
    calls = {"full": 0, "composed": 0}
    whole, composed = certify.epsilon, convolution.epsilon

    def counted(name, function):
        def called(*arguments, **options):
            calls[name] += 1
            return function(*arguments, **options)

        return called

    monkeypatch.setattr(certify, "epsilon", counted("full", whole))
    monkeypatch.setattr(convolution, "epsilon", counted("composed", composed))
    accounting.calibrate(event(1.0, group_size, rate), rounds, target, delta, group_bound=bound)
    assert calls["full"] <= 2
    assert calls["composed"] <= (20 if bound == "mixture" else 100)  # two directions each


def test_a_capped_calibration_takes_few_evaluations(monkeypatch):
    calls, upper = [], truncated_poisson.upper

    def counted(parts, delta, step):
        calls.append(step)
        return upper(parts, delta, step)

    monkeypatch.setattr(truncated_poisson, "upper", counted)
    capped = accounting.RoundEvent(
        sampling_rate=0.02, noise_multiplier=1.0, population=5000, cohort_cap=110
    )
    noise = accounting.calibrate(capped, 1000, 2.0, 1e-6)
    assert len(calls) <= 12
    spent = accounting.epsilon([(replace(capped, noise_multiplier=noise), 1000)], 1e-6)
    assert 2.0 * (1 - TOLERANCE) <= spent.upper <= 2.0


def test_the_curve_of_a_run_is_above_the_truth_and_adds_few_rounds():
    rounds, one = 3000, event(1.5, 1, 0.02)
    curve = accounting.epsilon_curve(one, rounds, DELTA)
    for count in np.random.default_rng(0).integers(rounds // 4, rounds, 6).tolist():
        truth = accounting.epsilon([(one, count)], DELTA)
        more = min(rounds, math.ceil(1.13 * count) + 1)
        assert truth.lower <= curve(count)
        assert curve(count) <= 1.002 * accounting.epsilon([(one, more)], DELTA).upper
    assert curve(rounds) == accounting.epsilon([(one, rounds)], DELTA).upper


def test_the_events_own_noise_does_not_matter():
    first, second = (accounting.calibrate(event(z), 100, 2.0, DELTA) for z in (0.1, 30.0))
    assert first == second


def test_arguments_out_of_range_are_refused():
    for target in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="epsilon"):
            accounting.calibrate(event(1.0), 10, target, DELTA)
    for rounds in (0, -1, 2.5):
        with pytest.raises(ValueError, match="rounds"):
            accounting.calibrate(event(1.0), rounds, 1.0, DELTA)
    with pytest.raises(ValueError, match="no mixture"):
        accounting.calibrate(event(1.0, 4), 10, 1.0, DELTA, accountant="rdp")
