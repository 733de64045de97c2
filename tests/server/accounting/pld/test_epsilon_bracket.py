"""Both ends of epsilon against closed forms, integrals and dp_accounting."""

import math

import pytest
from dp_accounting.pld import privacy_loss_distribution
from scipy import stats

from helpers.exact_privacy import Mixture, brackets, event, falling_root, gaussian_epsilon
from userdp.server import accounting
from userdp.server.accounting.pld import convolution, epsilon_bracket


def spent(rate, noise, group_size, rounds, delta, **options) -> accounting.Epsilon:
    return accounting.epsilon([(event(rate, noise, group_size), rounds)], delta, **options)


def library_epsilon(rate, noise, group_size, rounds, delta, interval) -> float:
    """dp_accounting's pessimistic PLD."""
    common = {"value_discretization_interval": interval}
    if group_size == 1:
        one = privacy_loss_distribution.from_gaussian_mechanism(noise, sampling_prob=rate, **common)
    else:
        slots = range(group_size + 1)
        hits = stats.binom.pmf(slots, group_size, rate)
        one = privacy_loss_distribution.from_mixture_gaussian_mechanism(
            noise, list(slots), list(hits / hits.sum()), **common
        )
    return one.self_compose(rounds).get_epsilon_for_delta(delta)


# Without sampling the mechanism is Gaussian, whose epsilon is known in closed form.
GAUSSIAN = [(1, 1, 1, 1e-6), (30, 1000, 1, 1e-6), (8, 100, 3, 1e-5), (200, 10_000, 1, 1e-10)]
GAUSSIAN += [(0.7, 1, 1, 1e-11), (50, 20, 2, 1e-3), (500, 100_000, 1, 1e-8)]


@pytest.mark.parametrize(("noise", "rounds", "group_size", "delta"), GAUSSIAN)
def test_unsampled_bounds_hold_the_closed_form(noise, rounds, group_size, delta):
    truth = gaussian_epsilon(group_size * math.sqrt(rounds) / noise, delta)
    bounds = spent(1, noise, group_size, rounds, delta)
    assert brackets(bounds, truth)
    assert bounds.upper / bounds.lower < 1.01
    for scale in (2 / 3, 3 / 2):
        assert not brackets(spent(1, noise * scale, group_size, rounds, delta), truth)


SMALL = [(0.1, 1.0, 1), (0.01, 0.6, 1), (0.3, 2.0, 3), (0.02, 1.5, 8)]


@pytest.mark.parametrize("setting", SMALL)
@pytest.mark.parametrize("delta", [1e-3, 1e-6, 1e-10])
def test_one_round_bounds_hold_the_exact_divergence(setting, delta):
    exact = Mixture(*setting)
    truth = falling_root(lambda e: max(exact.delta(e), exact.delta(e, removal=False)), delta)
    bounds = spent(*setting, 1, delta)
    assert brackets(bounds, truth)
    assert bounds.upper - bounds.lower <= 0.01 * bounds.lower + 1e-5


LIBRARY = [  # rate, noise, group size, rounds, delta, library's interval
    (0.01, 1.0, 1, 1000, 1e-6, 1e-4),
    (0.032, 1.266, 1, 500, 1e-5, 1e-4),
    (0.001, 0.8, 1, 5000, 1e-8, 1e-4),
    (0.001, 20.0, 1, 100, 1e-6, 1e-6),  # tiny epsilon: the default interval gives 20 times as much
    (0.2, 6.0, 1, 20_000, 1e-6, 1e-3),
    (0.01, 4.0, 10, 1000, 1e-6, 1e-3),
    (0.05, 6.0, 20, 300, 1e-7, 1e-3),
]


@pytest.mark.parametrize("setting", LIBRARY)
def test_library_confirms_both_bounds(setting):
    *mechanism, interval = setting
    bounds, library = spent(*mechanism), library_epsilon(*mechanism, interval)
    assert bounds.lower <= library
    assert bounds.upper == pytest.approx(library, rel=2e-3)
    assert bounds.upper / bounds.lower < 1.01


def test_large_groups_keep_a_lower_bound_below_the_truth():
    # The library's optimistic mixture gives 6.47 to 7.27 here; the truth is 5.569 to 5.570.
    bounds = spent(0.01, 20.0, 50, 2000, 1e-6)
    assert bounds.lower <= 5.570
    assert bounds.upper >= 5.569
    assert bounds.upper / bounds.lower < 1.002


def test_two_kinds_of_gaussian_rounds_add_in_variance():
    truth = gaussian_epsilon(math.sqrt(100 / 20**2 + 50 / 12**2), 1e-6)
    bounds = accounting.epsilon([(event(1, 20.0), 100), (event(1, 12.0), 50)], 1e-6)
    assert brackets(bounds, truth)
    assert bounds.upper / bounds.lower < 1.01


def test_crowded_grids_are_made_coarser_not_refused(monkeypatch):
    monkeypatch.setattr(convolution, "WORK_LIMIT", 2**12)
    bounds = spent(0.01, 1.0, 1, 1000, 1e-6)
    assert bounds.lower < 2.1245 < bounds.upper < math.inf
    assert epsilon_bracket.quick_upper([(event(0.01, 1.0), 1000)], 1e-6) >= bounds.lower
