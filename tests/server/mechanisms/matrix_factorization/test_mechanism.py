"""Public groups, correlated noise and their price, against closed forms."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats

from helpers import tiny
from userdp.clients.batching import unit_records
from userdp.server import accounting
from userdp.server.mechanisms.matrix_factorization.mechanism import MatrixFactorization
from userdp.server.mechanisms.matrix_factorization.noise_state import NoiseWindow
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.common import rng
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data import public_groups
from userdp.sim.data.population import Population, user_key
from userdp.sim.protocol.cohort_sum import CohortSum

PUBLIC = {"records_per_user": 2, "clip_norm": 0.7, "noise_multiplier": 1.3}
WHOLE = MatrixFactorization(users=23, cohort=4.6, rounds=12, **PUBLIC)  # 5 groups, K = 3
COINS = MatrixFactorization(users=200, cohort=20, bands=4, rounds=10, **PUBLIC)  # q' = 0.4


def fresh(mechanism, **changes):
    """The mechanism with a window of its own."""
    return dataclasses.replace(mechanism, window=NoiseWindow(), **changes)


def stream(number, seed=0, purpose="noise"):
    return rng.Secrets(replay_seed=seed).stream(purpose, number)


def released(mechanism, size=1, rounds=None, sums=None):
    """(rounds, D) means of a run."""
    mechanism = fresh(mechanism)
    numbers = range(1, (rounds or mechanism.rounds) + 1)
    totals = np.zeros((len(numbers), size)) if sums is None else sums
    return np.array(
        [
            mechanism.release(CohortSum(total), stream(n), n).mean
            for n, total in zip(numbers, totals, strict=True)
        ]
    )


KEYS = np.array([user_key(f"user {n}") for n in range(200)], np.uint64)


def drawn(mechanism, number, seed=0, keys=KEYS):
    """Positions of the users who take part, the first of whom have these keys."""
    keys = keys[: mechanism.users]
    population = Population.of({str(position): [[1, 2]] for position in range(len(keys))})
    population = dataclasses.replace(population, user_keys=keys)
    assignment = mechanism.draw(stream(number, seed, "cohort"), number)
    contract = mechanism.contract(number, tiny.WORK)
    return unit_records.members(population, contract, assignment).users


def groups_of(mechanism):
    """(users,) the group of each position."""
    if mechanism.groups_by == "place":
        return np.arange(mechanism.users) % mechanism.groups
    return public_groups.of(KEYS[: mechanism.users], mechanism.groups, tiny.WORK.seed)


@pytest.mark.parametrize(
    "mechanism",
    [WHOLE, fresh(WHOLE, users=24, cohort=5), COINS, fresh(WHOLE, groups_by="place")],
)
def test_participations_are_apart_by_the_bands_and_at_most_k(mechanism):
    """N divisible by b or not, T divisible by b or not; users who are not there have rounds too."""
    rounds = [drawn(mechanism, number) for number in range(1, mechanism.rounds + 1)]
    everyone = np.concatenate(rounds)
    assert everyone.min() >= 0
    assert everyone.max() < mechanism.users
    most = 0
    for user in range(mechanism.users):
        mine = [n for n, cohort in enumerate(rounds, start=1) if user in cohort]
        assert all((n - 1) % mechanism.groups == groups_of(mechanism)[user] for n in mine)
        assert all(b - a >= mechanism.groups for a, b in itertools.pairwise(mine))
        most = max(most, len(mine))
    assert most == mechanism.participations == math.ceil(mechanism.rounds / mechanism.groups)
    assert all(len(np.unique(cohort)) == len(cohort) for cohort in rounds)


def test_whole_groups_are_all_of_their_members_once_a_pass():
    for first in (1, 6):
        one_pass = np.concatenate([drawn(WHOLE, first + step) for step in range(5)])
        assert sorted(one_pass.tolist()) == list(range(23))
    assert WHOLE.expected_units == pytest.approx(23 / 5)
    assert (WHOLE.sampling_rate, WHOLE.sampling_scheme) == (1.0, "public groups")


def test_coins_fall_inside_the_group_at_their_rate_and_no_other():
    places = fresh(COINS, groups_by="place")  # of which each group has 50
    counts = np.array([len(places.draw(stream(2, n, "cohort"), 2).users) for n in range(3000)])
    assert all((drawn(places, 2, seed) % 4 == 1).all() for seed in range(50))
    assert all((groups_of(COINS)[drawn(COINS, 2, seed)] == 1).all() for seed in range(50))
    heads = sum(len(drawn(COINS, 2, seed)) for seed in range(500))
    members = 500 * int((groups_of(COINS) == 1).sum())
    for rate, fits in ((0.4, True), (0.4 * 2 / 3, False), (0.4 * 3 / 2, False)):
        assert (stats.binomtest(heads, members, rate).pvalue > 1e-3) == fits
        cells = stats.binom.cdf([15, 18, 20, 22, 25, 50], 50, rate)
        expected = np.diff([0, *cells]) * len(counts)
        seen = np.histogram(counts, [0, 16, 19, 21, 23, 26, 51])[0]
        assert (stats.chisquare(seen, expected).pvalue > 1e-3) == fits
    assert COINS.sampling_rate == pytest.approx(0.4)
    assert (COINS.expected_units, COINS.sampling_scheme) == (20, "public groups with poisson coins")


@pytest.mark.parametrize("mechanism", [WHOLE, COINS], ids=["whole", "coins"])
def test_without_a_user_every_other_user_is_in_the_same_rounds_as_before(mechanism):
    """Adding or removing one user: with all coins heads, nobody else's rounds change."""
    certain = dataclasses.replace(mechanism, bands=None, window=NoiseWindow())
    for number in range(1, certain.groups + 1):
        with_all = set(KEYS[drawn(certain, number)].tolist())
        for gone in (0, 7, certain.users - 1):
            keys = np.delete(KEYS[: certain.users], gone)
            without = set(keys[drawn(certain, number, keys=keys)].tolist())
            assert without == with_all - {int(KEYS[gone])}


def test_an_option_that_does_not_exist_is_refused():
    with pytest.raises(ConfigurationError, match=r"strategy.groups_by=name: choose one of id, pl"):
        fresh(WHOLE, groups_by="name")


def test_more_groups_than_rounds_let_nobody_take_part_twice():
    once = fresh(WHOLE, rounds=3)
    assert (once.participations, once.factor.width, once.groups) == (1, 3, 5)
    assert once.event_count(3) == 1


@pytest.mark.parametrize("mechanism", [WHOLE, COINS], ids=["whole", "coins"])
def test_the_noise_of_a_run_has_the_factors_covariance_at_z_c_and_no_other_scale(mechanism):
    """M y / (z C) must be independent and standard."""
    draws = 40_000
    noise = released(mechanism, draws) * mechanism.expected_units
    fresh_rows = mechanism.factor.matrix() @ noise / (1.3 * 0.7)
    gram = fresh_rows @ fresh_rows.T / draws
    error = np.sqrt((1 + np.eye(len(gram))) / draws)
    for scale, fits in ((1, True), (2 / 3, False), (3 / 2, False)):
        apart = np.abs(gram * scale**2 - np.eye(len(gram)))
        assert bool((apart < 5 * error).all()) == fits
    assert stats.kstest(fresh_rows.ravel(), "norm").pvalue > 1e-4


def test_a_release_is_the_sum_and_its_noise_over_the_public_denominator():
    sums = np.random.default_rng(0).standard_normal((12, 8))
    difference = released(WHOLE, 8, sums=sums) - released(WHOLE, 8)
    np.testing.assert_allclose(difference, sums / (23 / 5), rtol=1e-9)


def test_the_declared_noise_of_a_round_is_that_of_the_round():
    mechanism = fresh(WHOLE)
    for number in range(1, 13):
        release = mechanism.release(CohortSum(np.zeros(40_000)), stream(number), number)
        assert release.mean.std() == pytest.approx(release.noise_std, rel=0.03)
    declared = 1.3 * 0.7 * np.sqrt(WHOLE.factor.variances)
    assert WHOLE.noise_std == pytest.approx(np.sqrt((declared**2).mean()))
    assert declared.max() > 1.2 * declared.min()


def test_one_band_is_plain_gaussian_noise_for_everybody_in_every_round():
    plain = MatrixFactorization(users=6, cohort=6, rounds=9, **PUBLIC)
    assert (plain.groups, plain.participations, plain.expected_units) == (1, 9, 6)
    expected = [1.3 * 0.7 * rng.standard_normal(stream(n), 5) / 6 for n in range(1, 10)]
    np.testing.assert_allclose(released(plain, 5), expected, rtol=1e-12)
    user_wise = UserWise(users=6, cohort=6, **PUBLIC)
    assert plain.event() == user_wise.event()
    assert plain.event_count(9) == user_wise.event_count(9) == 9


def test_one_band_with_coins_is_user_wise_in_law_and_price():
    coins = MatrixFactorization(users=40, cohort=8, bands=1, rounds=9, **PUBLIC)
    user_wise = UserWise(users=40, cohort=8, **PUBLIC)
    assert (coins.event(), coins.event_count(9)) == (user_wise.event(), 9)
    assert (coins.expected_units, coins.noise_std) == (8, pytest.approx(user_wise.noise_std))
    np.testing.assert_array_equal(drawn(coins, 3), drawn(user_wise, 3))


@pytest.mark.parametrize("count", [1, 3, 8])
def test_all_participations_together_cost_one_gaussian_of_z_over_their_root(count):
    event = accounting.RoundEvent(sampling_rate=1.0, noise_multiplier=2.0)
    once = accounting.RoundEvent(sampling_rate=1.0, noise_multiplier=2.0 / math.sqrt(count))
    many = accounting.epsilon([(event, count)], 1e-6)
    one = accounting.epsilon([(once, 1)], 1e-6)
    assert many.upper == pytest.approx(one.upper, rel=5e-3)
    assert many.lower <= one.upper
    assert one.lower <= many.upper
    mu = math.sqrt(count) / 2.0  # Balle & Wang, 1805.06530: the exact curve of a Gaussian
    for figure, side in ((many.upper, -1), (many.lower, 1)):
        delta = stats.norm.cdf(mu / 2 - figure / mu) - math.exp(figure) * stats.norm.cdf(
            -mu / 2 - figure / mu
        )
        assert side * (delta - 1e-6) >= -1e-9


def test_the_details_name_one_gaussian_for_the_run_where_nobody_tosses_coins():
    details = WHOLE.details()
    assert details["run_noise_multiplier"] == pytest.approx(1.3 / math.sqrt(3))
    assert (details["groups"], details["bands"], details["participations"], details["horizon"]) == (
        5,
        5,
        3,
        12,
    )
    assert details["mean_squared_error"] == pytest.approx(WHOLE.factor.mean_error, rel=1e-5)
    assert details["factor_sha256"] == WHOLE.factor.digest
    assert "run_noise_multiplier" not in COINS.details()
    assert json.loads(json.dumps(details)) == details


@pytest.mark.parametrize("rounds", range(1, 13))
def test_a_prefix_is_priced_by_the_most_participations_in_it(rounds):
    taken = [len(range(group, rounds, 5)) for group in range(5)]
    assert WHOLE.event_count(rounds) == max(taken)


@pytest.mark.parametrize("mechanism", [WHOLE, COINS], ids=["whole", "coins"])
def test_the_query_and_the_event_agree(mechanism):
    [query] = mechanism.queries()
    assert query.sensitivity == 0.7
    assert query.noise_std / query.sensitivity == pytest.approx(mechanism.event().noise_multiplier)
    assert mechanism.event().sampling_rate == mechanism.sampling_rate


def sum_error(mechanism):
    """Mean squared error of the prefix sums of the released means, a coordinate, over C^2."""
    scale = mechanism.noise_multiplier / mechanism.expected_units
    return scale**2 * mechanism.factor.mean_error


@pytest.mark.parametrize("epsilon", [1.0, 3.0, 8.0])
def test_its_sums_are_nearer_than_those_of_plain_noise_at_equal_epsilon(epsilon):
    """Both without amplification: the same groups, and everybody in every round (T N gradients)."""
    ours = MatrixFactorization(users=1000, cohort=50, rounds=60, **PUBLIC)
    alone = fresh(ours, objective="independent")
    full = MatrixFactorization(users=1000, cohort=1000, rounds=60, **PUBLIC)

    def at(mechanism):
        count = mechanism.event_count(60)
        z = accounting.calibrate(mechanism.event(), count, epsilon, 1e-5)
        return sum_error(fresh(mechanism, noise_multiplier=z))

    assert at(ours) < 0.3 * at(alone)
    assert at(full) < at(ours)  # which costs twenty times the gradients


def test_independent_noise_in_groups_is_the_comparison():
    alone = fresh(WHOLE, objective="independent")
    np.testing.assert_array_equal(alone.factor.matrix(), np.eye(12))
    assert alone.participations == WHOLE.participations
    assert alone.details()["bands"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, "rounds=0"),
        ({"bands": 0}, "strategy.bands=0"),
        ({"bands": 6}, "6 groups of 23 declared users have 3.83333 each"),
        ({"objective": "median"}, "strategy.objective=median"),
        ({"noise_multiplier": 0.0}, "noise_multiplier=0"),
        ({"cohort": 24}, "cohort=24"),
    ],
)
def test_what_is_no_such_mechanism_is_refused(change, message):
    with pytest.raises(ConfigurationError, match=message):
        fresh(WHOLE, **change)


def test_groups_of_exactly_the_cohort_are_whole_groups():
    exact = MatrixFactorization(users=23, cohort=23 / 7, bands=7, rounds=8, **PUBLIC)
    assert exact.sampling_scheme == "public groups"
    assert exact.expected_units == pytest.approx(23 / 7)
