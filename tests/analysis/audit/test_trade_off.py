"""Trade-off curves of events agree with their certified epsilon, and exclude the right noise."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from userdp.analysis.audit import trade_off
from userdp.server import accounting
from userdp.server.accounting import RoundEvent

EVENTS = [
    RoundEvent(sampling_rate=1.0, noise_multiplier=1.3),
    RoundEvent(sampling_rate=0.2, noise_multiplier=0.8),
    RoundEvent(sampling_rate=0.1, noise_multiplier=1.0, group_size=4),
]


def test_the_curve_without_sampling_is_that_of_a_gaussian():
    """Dong, Roth, Su, arXiv 1905.02383, equation 6."""
    rates = np.array([1e-4, 0.1, 0.5, 0.9])
    wanted = stats.norm.cdf(stats.norm.isf(rates) - 1 / 1.3)
    assert trade_off.curve(EVENTS[0], rates) == pytest.approx(wanted)


@pytest.mark.parametrize("event", EVENTS)
def test_the_exact_curve_touches_the_certified_tangents(event):
    """Oracle: (epsilon, delta) of the accountant, whose tangents lie below and touch."""
    rates = np.concatenate([np.logspace(-9, -2, 4000), np.linspace(0.01, 1, 4000)])
    exact = trade_off.curve(event, rates)
    assert (trade_off._tangents(event, rates) <= exact + 1e-6).all()
    for delta in (1e-4, 1e-2):
        epsilon = accounting.epsilon([(event, 1)], delta).upper
        gaps = [
            (exact - (1 - delta - math.exp(epsilon) * rates)).min(),
            (exact - math.exp(-epsilon) * (1 - delta - rates)).min(),
        ]
        assert min(gaps) == pytest.approx(0, abs=2e-3 * (1 - delta))


@pytest.mark.parametrize("event", EVENTS)
def test_rates_on_the_curve_exclude_all_noise_above_and_none_below(event):
    rate = np.array([0.05])
    actual = replace(event, noise_multiplier=event.noise_multiplier / 1.5)
    misses = float(trade_off.curve(actual, rate)[0])
    assert trade_off.excluded_noise(event, 0.05, misses) == pytest.approx(
        actual.noise_multiplier, rel=3e-3
    )
    assert trade_off.excluded_noise(event, 0.5, 0.5) == math.inf


def test_a_capped_event_uses_tangents_and_a_failing_one_allows_for_its_failures():
    plain = EVENTS[1]
    capped = replace(plain, population=100, cohort_cap=22)
    rates = np.array([0.05, 0.3])
    assert (trade_off.curve(capped, rates) <= trade_off.curve(plain, rates)).all()
    failing = replace(plain, failure_probability=0.01)
    assert trade_off.curve(failing, rates) == pytest.approx(
        trade_off.curve(plain, rates + 0.01) - 0.01
    )


def test_epsilon_of_hardly_any_noise_is_a_finite_lower_bound():
    event = EVENTS[1]
    little = trade_off.epsilon_at(event, event.noise_multiplier / 16, 40, 1e-5)
    assert 1000 < little < math.inf
    assert trade_off.epsilon_at(event, math.inf, 40, 1e-5) == 0
    same = trade_off.epsilon_at(event, event.noise_multiplier, 40, 1e-5)
    assert same == accounting.epsilon([(event, 40)], 1e-5).lower
