"""Moments of a round's loss against adaptive quadrature and the moment generating function."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats

from helpers.exact_privacy import event
from userdp.server.accounting import RoundEvent
from userdp.server.accounting.edgeworth import loss_moments


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
    both = loss_moments.of_round(ev)
    computed = both.with_user if with_user else both.without
    loss = loss_of(ev)

    def mean_of(function):
        return expectation(ev, lambda x: function(loss(x)), with_user=with_user)

    mean = mean_of(lambda value: value)
    assert computed.mean == pytest.approx(mean, rel=1e-9)
    for j, moment in zip((2, 3, 4, 5), computed.central, strict=True):
        assert moment == pytest.approx(mean_of(lambda v, j=j: (v - mean) ** j), rel=1e-8)
    for j, moment in zip((1, 3), computed.absolute, strict=True):
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
    expected = [series[j] / radius**j * math.factorial(j) for j in range(1, 6)]
    cumulants = loss_moments.of_round(event(q, z)).with_user.cumulants()
    assert cumulants == pytest.approx(expected, rel=1e-8)


def test_a_loss_below_rounding_is_refused():
    with pytest.raises(ValueError, match="too small"):
        loss_moments.of_round(event(1e-9, 1e5))
