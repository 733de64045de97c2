"""Discrete noise: a release is a rounding of the Gaussian mechanism over the real numbers."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from userdp.server.mechanisms import noise_grid
from userdp.server.mechanisms.adaptive_clip import AdaptiveClip
from userdp.server.mechanisms.base import Mechanism
from userdp.server.mechanisms.concentrated.mechanism import Concentrated
from userdp.server.mechanisms.group_privacy import GroupPrivacy
from userdp.server.mechanisms.matrix_factorization.mechanism import MatrixFactorization
from userdp.server.mechanisms.noise_grid import DISCRETE
from userdp.server.mechanisms.non_private import NonPrivate
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.common import exact_draws, rng
from userdp.sim.common.errors import ConfigurationError, StoppedError
from userdp.sim.protocol.cohort_sum import CohortSum

PUBLIC = {"users": 40, "cohort": 8, "clip_norm": 0.7, "noise_multiplier": 1.3, "noise": DISCRETE}
USER = UserWise(records_per_user=3, **PUBLIC)
SLOT = GroupPrivacy(records_per_user=3, **PUBLIC)
MECHANISMS = pytest.mark.parametrize("mechanism", [USER, SLOT], ids=["user", "slot"])
SIZE = 100_000


def stream(number=1):
    return rng.Secrets(replay_seed=4).stream("noise", number)


def on_grid(values, step):
    return np.trunc(values / step) * step


# --- the grid ------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise_std", [0.3, 1.0, 0.91, 1023.9, 1e-5, 1e12])
def test_the_step_is_the_power_of_two_of_which_the_noise_has_2_to_the_20(noise_std):
    step = noise_grid.step(noise_std, 100 * noise_std)
    assert math.frexp(step)[0] == 0.5
    assert 2**20 <= noise_std / step < 2**21


@pytest.mark.parametrize(
    ("noise_std", "largest"), [(1.0, 2.0**33), (1e-290, 1.0), (1e-290, 1e-290)]
)
def test_where_sums_would_not_be_exact_there_is_no_grid(noise_std, largest):
    with pytest.raises(ConfigurationError, match=r"privacy\.noise=discrete"):
        noise_grid.step(noise_std, largest)


def test_a_mechanism_whose_full_cohort_leaves_the_exact_numbers_is_refused():
    whole = dataclasses.replace(SLOT, users=2**28, cohort=8.0)
    with pytest.raises(ConfigurationError, match="fewer users or slots"):
        dataclasses.replace(whole, records_per_user=100)


# --- the release ---------------------------------------------------------------------------------


@MECHANISMS
def test_the_release_is_the_sum_plus_the_gaussian_rounded_to_the_grid(mechanism):
    """round((S + G) / g), with G's rounding from the same words: the identity of the proof."""
    source = np.random.default_rng(0)
    total = on_grid(source.standard_normal(SIZE), mechanism.grid)
    released = mechanism.release(CohortSum(total), stream(), 1)
    std = Fraction(1.3) * Fraction(0.7) / Fraction(mechanism.grid)
    noise = exact_draws.rounded_normal(stream(), SIZE, float(std) * (1 + 2.0**-48))
    for i in range(0, SIZE, 997):
        steps = Fraction(total[i]) / Fraction(mechanism.grid) + int(noise[i])
        assert steps.denominator == 1
        assert float(steps) == steps  # exact in float64
        wanted = float(steps) * mechanism.grid / mechanism.expected_units
        assert released.mean[i] == wanted
    assert released.noise_std == mechanism.noise_std / mechanism.expected_units


@MECHANISMS
def test_the_same_noise_moves_two_neighbours_by_the_same_steps(mechanism):
    """Unlike float noise: the difference of two releases is that of the sums, bit by bit."""
    source = np.random.default_rng(1)
    total = on_grid(source.standard_normal(1000), mechanism.grid)
    update = on_grid(source.standard_normal(1000) / 50, mechanism.grid)
    m = mechanism.expected_units
    one, other = (
        mechanism.release(CohortSum(value), stream(), 1).mean for value in (total, total + update)
    )
    steps = np.rint(other * m / mechanism.grid) - np.rint(one * m / mechanism.grid)
    assert (steps == update / mechanism.grid).all()


@MECHANISMS
def test_a_release_holds_multiples_of_the_grid_alone(mechanism):
    mechanism = dataclasses.replace(mechanism, users=64, cohort=8)
    released = mechanism.release(CohortSum(np.zeros(SIZE)), stream(), 1).mean
    steps = released * mechanism.expected_units / mechanism.grid
    assert abs(steps - np.rint(steps)).max() < 1e-6
    assert len(np.unique(released)) > 0.9 * SIZE


@pytest.mark.parametrize("bad", [0.3, math.nan, math.inf, 2.0**53, -math.inf])
def test_a_sum_that_is_not_on_the_grid_is_not_released(bad):
    total = np.zeros(5)
    total[3] = bad * USER.grid
    with pytest.raises(StoppedError, match=r"privacy\.noise=discrete.*grid"):
        USER.release(CohortSum(total), stream(), 1)


def test_the_sign_of_a_zero_is_not_released():
    """Equal sums give equal releases, bit by bit, also where the noise is zero."""
    quiet = dataclasses.replace(USER, noise_multiplier=1e-3)
    zeros = [np.full(SIZE, sign * 0.0) for sign in (1, -1)]
    noised = [
        noise_grid.noised(zero, quiet.noise_std, stream(), grid=quiet.noise_std) for zero in zeros
    ]
    assert (noised[0] == 0).sum() > 1000
    assert noised[0].tobytes() == noised[1].tobytes()


def test_the_noise_is_nowhere_below_the_product_of_multiplier_and_clip_norm():
    source = np.random.default_rng(2)
    for z, c, m in source.uniform(0.1, 10, (200, 3)):
        plain = dataclasses.replace(USER, noise_multiplier=z, clip_norm=c)
        assert Fraction(plain.noise_std) * Fraction(noise_grid._ROUNDING) >= Fraction(z) * Fraction(
            c
        )
        rule = AdaptiveClip(bit_noise=z * (0.5 + m))
        adaptive = dataclasses.replace(plain, adaptive=rule)
        costs = [
            (Fraction(query.sensitivity) / Fraction(query.noise_std)) ** 2
            for query in adaptive.queries()
        ]
        assert sum(costs) / Fraction(noise_grid._ROUNDING) ** 2 <= 1 / Fraction(z) ** 2


# --- clip bits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bit_noise", [0.9, 3.0, 1e6, 1e8])
def test_clip_bits_are_halves_and_get_discrete_noise_too(bit_noise):
    adaptive = dataclasses.replace(USER, adaptive=AdaptiveClip(bit_noise=bit_noise))
    assert adaptive.bits_grid <= 0.5
    for bits in (-3.5, 0.0, 4.0):
        cohort = CohortSum(np.zeros(3), unclipped_bits=bits)
        released = adaptive.release(cohort, stream(), 1)
        words = stream()
        words.words(3)
        std = bit_noise / adaptive.bits_grid * (1 + 2.0**-48)
        [noise] = exact_draws.rounded_normal(words, 1, std)
        wanted = 0.5 + (bits + noise * adaptive.bits_grid) / 8
        assert released.unclipped_fraction == wanted


def test_the_grid_of_a_round_follows_its_clip_norm():
    adaptive = dataclasses.replace(USER, adaptive=AdaptiveClip(bit_noise=2.0))
    halved = dataclasses.replace(adaptive, clip_norm=0.35)
    assert halved.grid == adaptive.grid / 2
    assert adaptive.restored({"clip_norm": 0.35}).noise == DISCRETE


# --- who offers it -------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [Concentrated, MatrixFactorization, NonPrivate])
def test_a_mechanism_that_adds_noise_to_other_numbers_is_refused(strategy):
    assert not noise_grid.is_offered(strategy)
    with pytest.raises(ConfigurationError, match=rf"privacy\.noise=discrete: {strategy.__name__}"):
        strategy(records_per_user=3, **PUBLIC)


def test_a_release_of_its_own_offers_nothing_until_its_class_says_so():
    class Silent(UserWise):
        def release(self, cohort, stream, number):
            return super().release(cohort, stream, number)

    class Outspoken(Silent):
        discrete_noise = True

        def release(self, cohort, stream, number):
            return super().release(cohort, stream, number)

    class Heir(Silent):
        discrete_noise = True  # of a release that another class wrote

    kinds = (UserWise, Silent, Outspoken, Heir)
    assert [noise_grid.is_offered(kind) for kind in kinds] == [1, 0, 1, 0]
    for kind in (Silent, Heir):
        with pytest.raises(ConfigurationError, match=rf"discrete: {kind.__name__}"):
            kind(records_per_user=3, **PUBLIC)
    cohort = CohortSum(np.zeros(9))
    spoken = Outspoken(records_per_user=3, **PUBLIC).release(cohort, stream(), 1)
    assert (spoken.mean == USER.release(cohort, stream(), 1).mean).all()


def test_the_name_of_the_noise_is_one_of_two():
    with pytest.raises(ConfigurationError, match=r"privacy\.noise=grid"):
        dataclasses.replace(USER, noise="grid")


def test_float_noise_needs_no_grid():
    plain: Mechanism = dataclasses.replace(USER, noise="float")
    assert (plain.grid, plain.bits_grid) == (0.0, 0.0)
    released = plain.release(CohortSum(np.full(9, 0.1)), stream(), 1).mean
    assert released == pytest.approx((0.1 + 0.91 * rng.standard_normal(stream(), 9)) / 8)


def test_discrete_and_float_noise_have_one_law_up_to_the_grid():
    mean = USER.release(CohortSum(np.zeros(SIZE)), stream(), 1).mean
    for scale, least in ((1.0, 1e-3), (0.97, 0.0), (1.03, 0.0)):
        p = stats.kstest(scale * mean * 8 / 0.91, "norm", method="asymp").pvalue
        assert p > least if least else p < 1e-6
