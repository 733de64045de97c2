"""AUC, TPR at a FPR and their bounds, against slow counting, laws and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from userdp.analysis.user_inference import rates

FPRS = (0.0, 0.01, 0.1, 0.3, 1.0)


def sides(seed: int, values: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Statistics of 23 participants and 30 others, with many ties."""
    source = np.random.default_rng(seed)
    return source.integers(1, values + 1, 23) / 4, source.integers(0, values, 30) / 4


@pytest.mark.parametrize("seed", range(5))
def test_auc_counts_all_pairs_and_ties_half(seed):
    members, others = sides(seed)
    slow = [float(a > b) + 0.5 * float(a == b) for a in members for b in others]
    assert rates.auc(members, others) == pytest.approx(np.mean(slow), abs=1e-12)


@pytest.mark.parametrize("fpr", FPRS)
@pytest.mark.parametrize("seed", range(5))
def test_tpr_is_the_largest_over_thresholds_of_at_most_this_fpr(seed, fpr):
    members, others = sides(seed)
    cuts = [-math.inf, *members, *others]
    admissible = [cut for cut in cuts if np.sum(others > cut) <= fpr * len(others) + 1e-9]
    slow = max(np.mean(members > cut) for cut in admissible)
    assert rates.tpr(members, others, fpr) == slow


def test_equal_statistics_are_chance():
    members, others = np.zeros(7), np.zeros(11)
    assert rates.auc(members, others) == 0.5
    assert rates.tpr(members, others, 0.1) == 0.0


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 0.0), (1.0, 1e-4), (8.0, 1e-4), (0.1, 0.2)])
@pytest.mark.parametrize("fpr", [0.0, 0.01, 0.1, 0.9, 1.0])
def test_the_bound_is_the_largest_rate_that_both_inequalities_allow(epsilon, delta, fpr):
    """TPR <= e^eps FPR + delta, and the same of the complements."""
    grid = np.linspace(0, 1, 200001)
    allowed = grid <= math.exp(epsilon) * fpr + delta
    allowed &= 1 - fpr <= math.exp(epsilon) * (1 - grid) + delta
    assert rates.bound(fpr, epsilon, delta) == pytest.approx(grid[allowed].max(), abs=1e-5)


def test_randomised_response_reaches_the_bound():
    for epsilon in (0.5, 1.0, 3.0):
        fpr = 1 / (1 + math.exp(epsilon))
        assert rates.bound(fpr, epsilon, 0.0) == pytest.approx(1 - fpr)
    assert rates.bound(0.01, math.inf, 0.0) == 1.0
    assert rates.bound(0.01, 1000.0, 0.0) == 1.0


def gaussian_delta(shift: float, epsilon: float) -> float:
    """Delta of one Gaussian mechanism with this shift in standard deviations."""
    upper = stats.norm.cdf(shift / 2 - epsilon / shift)
    lower = stats.norm.cdf(-shift / 2 - epsilon / shift)
    return float(upper - math.exp(epsilon) * lower)


def contradicted(shift: float, *, claimed_shift: float, others: int = 300, draws: int = 60) -> int:
    """How often two normals so far apart exceed what the claimed shift allows, of 60 times."""
    epsilon = 1.0
    delta = gaussian_delta(claimed_shift, epsilon)
    source = np.random.default_rng(5)
    return sum(
        rates.exceeds(
            source.normal(shift, 1, 60),
            source.normal(0, 1, others),
            fpr=0.1,
            epsilon=epsilon,
            delta=delta,
        )
        for _ in range(draws)
    )


def test_an_honest_mechanism_stays_below_and_a_third_of_the_noise_does_not():
    for others in (60, 300, 6000):  # where they are many, the error is the participants' alone
        assert contradicted(1.0, claimed_shift=1.0, others=others) <= 3
        assert contradicted(3.0, claimed_shift=1.0, others=others) == 60


def covered(scale: float) -> float:
    """How often an interval, made wider by ``scale``, holds the AUC of two normals."""
    source, hits, repeats = np.random.default_rng(2), 0, 100
    truth = float(stats.norm.cdf(1 / math.sqrt(2)))
    for _ in range(repeats):
        members, others = source.normal(1, 1, 60), source.normal(0, 1, 60)
        found = rates.bootstrapped(rates.auc, members, others, source, 100)
        low, high = (found.value + scale * (end - found.value) for end in (found.low, found.high))
        hits += low <= truth <= high
    return hits / repeats


def test_the_interval_covers_the_true_auc_and_a_third_of_it_does_not():
    assert 0.88 <= covered(1.0) <= 0.99
    assert covered(1 / 3) < 0.7
