"""Poisson coins are independent and of the declared rate; capped subsets are uniform."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from userdp.server.mechanisms import sampling
from userdp.sim.common import rng

SIZE, RATE, ROUNDS = 60, 0.15, 4000


def stream(number=1):
    return rng.Secrets(replay_seed=5).stream("cohort", number)


def of_rate(rate):
    return lambda _: lambda number: sampling.poisson_positions(stream(number), rate, SIZE)


def fixed_size(source):
    return lambda _: source.permutation(SIZE)[: round(SIZE * RATE)]


def random_size_then_subset(source):
    """A size of the wrong distribution, then a subset: not independent coins."""
    return lambda _: source.permutation(SIZE)[: source.poisson(RATE * SIZE / 2) * 2]


def with_replacement(source):
    return lambda _: source.integers(0, SIZE, source.binomial(SIZE, RATE))


def neighbours_together(source):
    """Right rate, but positions 2i and 2i + 1 share a coin."""
    return lambda _: np.flatnonzero((source.random(SIZE // 2) < RATE).repeat(2))


def p_value(sampler):
    """Smallest p-value (Bonferroni) of: rate of each position, size of a cohort, pairs, repeats."""
    draw = sampler(np.random.default_rng(1))
    hits = np.zeros((ROUNDS, SIZE))
    for number in range(ROUNDS):
        np.add.at(hits[number], draw(number), 1)
    variance = RATE * (1 - RATE)
    rates = ((hits.sum(0) - ROUNDS * RATE) ** 2).sum() / (ROUNDS * variance)
    sizes = hits.sum(1).var(ddof=1) * (ROUNDS - 1) / (SIZE * variance)
    centred = (hits - RATE) / np.sqrt(variance)
    lags = [(centred[:, :-lag] * centred[:, lag:]).sum() for lag in range(1, 6)]
    pairs = sum(z**2 / (ROUNDS * (SIZE - lag)) for lag, z in enumerate(lags, 1))
    p_values = [
        stats.chi2.sf(rates, SIZE),
        2 * min(stats.chi2.cdf(sizes, ROUNDS - 1), stats.chi2.sf(sizes, ROUNDS - 1)),
        stats.chi2.sf(pairs, len(lags)),
        float(hits.max() <= 1),
    ]
    return len(p_values) * min(p_values)


def test_inclusions_have_the_rate_and_are_independent():
    assert p_value(of_rate(RATE)) > 1e-3


@pytest.mark.parametrize(
    "sampler",
    [
        fixed_size,
        random_size_then_subset,
        with_replacement,
        neighbours_together,
        of_rate(RATE * 2 / 3),
        of_rate(RATE * 3 / 2),
        of_rate(RATE * 1.05),
    ],
)
def test_other_samplers_fail_the_same_test(sampler):
    assert p_value(sampler) < 1e-6


@given(st.floats(1e-300, 1), st.integers(0, 200), st.integers(0, 10**6))
def test_positions_are_strictly_ascending_and_within_range(rate, size, number):
    positions = sampling.poisson_positions(stream(number), rate, size)
    assert positions.dtype == np.int64
    assert (np.diff(positions) > 0).all()
    assert not len(positions) or 0 <= positions[0] <= positions[-1] < size


def test_rate_one_takes_every_position_without_a_coin():
    assert sampling.poisson_positions(Counting(), 1.0, 9).tolist() == list(range(9))


@pytest.mark.parametrize("rate", [1e-300, 1e-12])
def test_a_vanishing_rate_gives_an_empty_cohort(rate):
    assert len(sampling.poisson_positions(stream(), rate, 1000)) == 0


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.0000001, float("nan")])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(ValueError, match="rate="):
        sampling.poisson_positions(stream(), rate, 10)


class Counting:
    """A stream that counts what was drawn from it."""

    def __init__(self):
        self.drawn = 0

    def words(self, size):
        self.drawn += size
        return stream(3).words(size)


def test_the_cost_is_the_cohorts_not_the_populations():
    counting = Counting()
    positions = sampling.poisson_positions(counting, 1e-3, 10**6)
    assert 800 < len(positions) < 1200
    assert counting.drawn < 1.3 * 10**6 * 1e-3


# --- subsets of capped cohorts -------------------------------------------------------------------


def subset_p_value(subset, rounds=4000):
    """Chi-square of how often each of ten members of an over-full cohort is kept."""
    members = np.arange(0, 50, 5)
    kept = np.concatenate([subset(stream(number), members, 4) for number in range(rounds)])
    counts = np.bincount(kept // 5, minlength=10)
    # A member is kept or not: the counts of one draw are dependent, which shrinks their variance.
    variance = rounds * 0.4 * 0.6 * 10 / 9
    return stats.chi2.sf(((counts - rounds * 0.4) ** 2).sum() / variance, 9)


def first_come(_, positions, cap):
    return positions[:cap]


def test_every_member_of_an_overfull_cohort_is_kept_equally_often():
    assert subset_p_value(sampling.random_subset) > 1e-3


def test_taking_the_first_who_come_fails_the_same_test():
    assert subset_p_value(first_come) < 1e-6


def test_pairs_are_kept_together_as_often_as_chance_has_it():
    kept = [frozenset(sampling.random_subset(stream(n), np.arange(5), 2)) for n in range(5000)]
    pairs = [frozenset(pair) for pair in itertools.combinations(range(5), 2)]
    assert stats.chisquare([kept.count(pair) for pair in pairs]).pvalue > 1e-3


@given(st.integers(0, 60), st.integers(1, 40), st.integers(0, 10**6))
def test_a_subset_has_the_cap_or_all_in_ascending_order(size, cap, number):
    members = np.arange(size) * 3
    kept = sampling.random_subset(stream(number), members, cap)
    assert len(kept) == min(size, cap)
    assert set(kept) <= set(members)
    assert (np.diff(kept) > 0).all()


class Tied:
    """A stream whose first words are all equal, or equal in pairs; the next ones are not."""

    def __init__(self, number, alike):
        self.source, self.alike = stream(number), alike

    def words(self, size):
        alike, self.alike = self.alike, 1
        return self.source.words(size)[np.arange(size) // alike]


@pytest.mark.parametrize("alike", [2, 10])
def test_equal_keys_draw_more_bits_and_favour_no_position(alike):
    def p_value(subset):
        members = np.arange(0, 50, 5)
        kept = [subset(Tied(number, alike), members, 3) for number in range(600)]
        counts = np.bincount(np.concatenate(kept) // 5, minlength=10)
        variance = 600 * 0.3 * 0.7 * 10 / 9
        return stats.chi2.sf(((counts - 600 * 0.3) ** 2).sum() / variance, 9)

    def by_position(source, members, cap):
        return members[np.sort(np.argsort(source.words(len(members)), kind="stable")[:cap])]

    # Pairs stay together more often than single positions, so only a bias is asked for.
    assert p_value(sampling.random_subset) > 1e-6
    assert p_value(by_position) < 1e-6
