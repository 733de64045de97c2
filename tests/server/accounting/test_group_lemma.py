"""The group privacy lemma against its definition and a scan of dp_accounting's curve."""

import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution

from helpers.exact_privacy import event, gaussian_epsilon
from userdp.server import accounting
from userdp.server.accounting import group_lemma


@pytest.mark.parametrize(
    ("rate", "noise", "group_size", "rounds", "coarse"),
    [(0.01, 4.0, 10, 1000, 4.09), (0.001, 1.0, 10, 2000, 3.64)],
)
def test_lemma_equals_a_scan_of_the_library_on_a_fine_grid(rate, noise, group_size, rounds, coarse):
    # On an interval of 1e-3 the library's slot curve loses 2 to 3 %; on 1e-4 it agrees with ours.
    one = privacy_loss_distribution.from_gaussian_mechanism(
        noise, sampling_prob=rate, value_discretization_interval=1e-4
    ).self_compose(rounds)
    slots = np.linspace(0.2, 0.6, 2001)
    growth = np.expm1(group_size * slots) / np.expm1(slots)
    valid = np.asarray(one.get_delta_for_epsilon(slots)) * growth <= 1e-6
    parts = [(event(rate, noise, group_size), rounds)]
    bounds = accounting.epsilon(parts, 1e-6, group_bound="lemma")
    assert bounds.upper == pytest.approx(group_size * slots[np.argmax(valid)], rel=3e-3)
    assert bounds.upper < coarse


@pytest.mark.parametrize(("e", "k"), [(0.3, 4), (2.0, 7), (1e-9, 5)])
def test_growth_is_the_sum_over_a_chain_of_neighbours(e, k):
    chain = math.fsum(math.exp(j * e) for j in range(k))
    assert group_lemma.log_growth(e, k) == pytest.approx(math.log(chain), rel=1e-9)


def test_slot_deltas_are_valid_where_rounding_decides(monkeypatch):
    """At epsilon 0, growth and depth of the first trial are equal but for rounding."""
    accepted, is_valid = set(), group_lemma.is_valid

    def recorded(epsilon, log_slot_delta, group_size, delta):
        valid = is_valid(epsilon, log_slot_delta, group_size, delta)
        if valid:
            accepted.add(math.exp(log_slot_delta))
        return valid

    monkeypatch.setattr(group_lemma, "is_valid", recorded)
    for group_size in range(2, 12):
        for delta in np.geomspace(1e-9, 1e-3, 20):
            accepted.clear()
            assert group_lemma.slot_delta(lambda _: 0.0, group_size, delta) in accepted


def test_slot_delta_is_valid_and_nearly_the_largest():
    def slot_epsilon(delta: float) -> float:
        return gaussian_epsilon(0.4, delta)

    slot_delta, k, delta = group_lemma.slot_delta(slot_epsilon, 5, 1e-6), 5, 1e-6
    assert group_lemma.is_valid(slot_epsilon(slot_delta), math.log(slot_delta), k, delta)
    larger = slot_delta * math.exp(0.02)
    assert not group_lemma.is_valid(slot_epsilon(larger), math.log(larger), k, delta)


def test_epsilon_is_infinite_where_no_slot_delta_is_valid():
    assert group_lemma.slot_delta(lambda delta: math.inf, 5, 1e-6) == 0
    assert group_lemma.upper(lambda delta: math.inf, 5, 1e-6) == math.inf
    assert group_lemma.guided_upper(lambda delta: 0.1, lambda delta: math.inf, 5, 1e-6) == math.inf
    assert group_lemma.first_valid(lambda delta: 9.0, [1e-7, 1e-8], 5, 1e-6) == math.inf
