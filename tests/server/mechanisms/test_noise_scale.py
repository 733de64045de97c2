"""Every release path adds the noise that its ledger entry records: 3 % too little is seen.

100,000 draws tell a scale to 0.22 % (one standard deviation), so a band of 1 % is 4.5 of these.
The streams replay, so a test that passes once always passes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from userdp.server.mechanisms.adaptive_clip import AdaptiveClip
from userdp.server.mechanisms.base import RECORD_SLOT
from userdp.server.mechanisms.concentrated.mechanism import Concentrated
from userdp.server.mechanisms.group_privacy import GroupPrivacy
from userdp.server.mechanisms.matrix_factorization.mechanism import MatrixFactorization
from userdp.server.mechanisms.noise_grid import DISCRETE
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.common import rng
from userdp.sim.protocol.cohort_sum import CohortSum

DRAWS, BAND, WRONG = 100_000, 0.01, (0.97, 1.03)
PUBLIC = {"users": 100, "cohort": 20, "clip_norm": 0.7, "noise_multiplier": 1.3}
USER = UserWise(records_per_user=3, **PUBLIC)
SLOT = GroupPrivacy(records_per_user=3, **PUBLIC)
CAPPED = dataclasses.replace(USER, cohort_max=30)
ADAPTIVE = dataclasses.replace(USER, adaptive=AdaptiveClip(bit_noise=0.8))
ADAPTIVE_SLOT = dataclasses.replace(SLOT, adaptive=AdaptiveClip(bit_noise=0.8))
RULE = Concentrated(
    records_per_user=3, tau=0.02, min_weight=10, test_share=0.9, failure_probability=0.1, **PUBLIC
)
PAIRS = dataclasses.replace(RULE, test_statistic="pairs")


def groups(bands=None):
    """Whole groups, or coins in ``bands`` groups; six rounds, none of them drawn yet."""
    return MatrixFactorization(records_per_user=3, rounds=6, bands=bands, **PUBLIC)


def discrete(mechanism):
    return dataclasses.replace(mechanism, noise=DISCRETE)


def stream(number=1):
    return rng.Secrets(replay_seed=2).stream("noise", number)


def on_grid(value, mechanism):
    """The nearest number that a sum may hold."""
    return round(value / mechanism.grid) * mechanism.grid if mechanism.grid else value


# --- vectors: the update of a release ------------------------------------------------------------
# Each gives the noise, and its std as the release reports it to optimiser and log.


def of_sum(mechanism) -> Callable[[], tuple[np.ndarray, float]]:
    """Noise on the sum of an update of 100,000 coordinates; 17.3 is far from both ends of it."""

    def noise():
        exact = on_grid(17.3, mechanism)
        cohort = CohortSum(np.full(DRAWS, exact), unclipped_bits=1.5)
        cohort = cohort if mechanism.adaptive else dataclasses.replace(cohort, unclipped_bits=None)
        return on_sum(mechanism, mechanism.release(cohort, stream(), 1), exact)

    return noise


def on_sum(mechanism, released, exact):
    m = mechanism.expected_units
    return released.mean * m - exact, released.noise_std * m


def alike(count):
    """Rows that agree; W and t are their number, and their mean is 0.0017 everywhere."""
    return np.full((count, DRAWS), 0.0017)


def of_mean(mechanism):
    def noise():
        released = mechanism.release(rows(alike(40)), stream(), 1)
        return released.mean - 0.0017, released.noise_std

    return noise


def of_fallback(mechanism):
    def noise():
        apart = alike(4) * np.array([[1.0], [-1.0], [2.0], [-2.0]])
        apart[0] += 0.5
        released = mechanism.release(rows(apart), stream(), 1)
        assert not released.released["test_passed"]
        return on_sum(mechanism, released, apart.sum(0))

    return noise


def rows(values):
    return CohortSum(values.sum(0), rows=values)


SPLIT = 1.3 / math.sqrt(0.1)  # z_g, by the definition of the split
BITS_SPLIT = (1.3**-2 - (2 * 0.8) ** -2) ** -0.5  # z_D
VECTORS = {
    "user": (of_sum(USER), 1.3 * 0.7),
    "slot": (of_sum(SLOT), 1.3 * 0.7),
    "capped": (of_sum(CAPPED), 1.3 * 0.7),
    "adaptive": (of_sum(ADAPTIVE), BITS_SPLIT * 0.7),
    "adaptive slot": (of_sum(ADAPTIVE_SLOT), BITS_SPLIT * 0.7),
    "discrete user": (of_sum(discrete(USER)), 1.3 * 0.7),
    "discrete slot": (of_sum(discrete(SLOT)), 1.3 * 0.7),
    "discrete capped": (of_sum(discrete(CAPPED)), 1.3 * 0.7),
    "discrete adaptive": (of_sum(discrete(ADAPTIVE)), BITS_SPLIT * 0.7),
    "mean where the test passes": (of_mean(RULE), SPLIT * 52 / 3 * 0.02 / 10),
    "mean where the pairs pass": (of_mean(PAIRS), SPLIT * 52 / 3 * 0.02 / 10),
    "sum where the test fails": (of_fallback(RULE), SPLIT * 0.7),
}


@pytest.mark.parametrize("path", VECTORS)
def test_noise_on_an_update_has_its_scale_within_one_percent(path):
    noise_of, std = VECTORS[path]
    noise, reported = noise_of()
    check(noise / std)
    assert reported == pytest.approx(std)


def check(normals):
    """Scale and shape are the Gaussian's; the scale is rejected where it is 3 % wrong."""
    assert len(normals) >= DRAWS
    assert abs(normals.mean()) < 5 / math.sqrt(len(normals))
    assert stats.kstest(normals, "norm", method="asymp").pvalue > 1e-3
    for factor in (1.0, *WRONG):
        scale = math.sqrt(float(np.mean((factor * normals) ** 2)))
        assert (abs(scale - 1) < BAND) == (factor == 1.0)


@pytest.mark.parametrize("bands", [None, 3], ids=["groups", "coins"])
def test_every_row_of_correlated_noise_has_its_scale_and_unfolds_to_independent_ones(bands):
    """``M y = xi``: what a participation is covered by is N(0, (z C)^2), round by round."""
    mechanism, total = groups(bands), np.full(DRAWS, 3.1)
    released = [
        mechanism.release(CohortSum(total), stream(number), number) for number in range(1, 7)
    ]
    pairs = [on_sum(mechanism, release, total) for release in released]
    noise, reported = np.array([noise for noise, _ in pairs]), [std for _, std in pairs]
    for fresh in mechanism.factor.matrix() @ noise:
        check(fresh / (1.3 * 0.7))
    stds = 1.3 * 0.7 * np.sqrt(mechanism.factor.variances)
    assert np.abs(noise.std(1) / stds - 1).max() < BAND
    assert reported == pytest.approx(stds)


# --- single numbers: clip bits and the test's statistic ------------------------------------------


class Planted:
    """A stream of given standard normals for single numbers, and of zeros for longer vectors."""

    def __init__(self, normals):
        self.left = list(rng.standard_normal(stream(7), normals))
        self.first = iter(stream(7).words(normals))

    def words(self, size):
        if size == 1:
            return np.array([next(self.first)], np.uint64)
        return np.full(size, 2**64 - 1, np.uint64)


def bits_of(mechanism):
    m = mechanism.expected_units

    def noise(source):
        cohort = CohortSum(np.zeros(2), unclipped_bits=2.5)
        return (mechanism.release(cohort, source, 1).unclipped_fraction - 0.5) * m - 2.5

    return noise


def test_of(mechanism, name):
    apart = np.diag([0.3, 0.4, 0.5, 0.6])
    few = {"weight": 0.0, "pairs": -2.0}[name]  # t = 2 n / n - n of n = 4 that are all apart

    def noise(source):
        return mechanism.release(rows(apart), source, 1).released["test_statistic"] - few

    return noise


test_of.__test__ = False
SCALARS = {
    "clip bits": (bits_of(ADAPTIVE), 0.8),
    "clip bits of slots": (bits_of(ADAPTIVE_SLOT), 0.8),
    "discrete clip bits": (bits_of(discrete(ADAPTIVE)), 0.8),
    "test of the weight": (test_of(RULE, "weight"), 4 * 1.3 / math.sqrt(0.9)),
    "test of the pairs": (test_of(PAIRS, "pairs"), 3 * 1.3 / math.sqrt(0.9)),
}


@pytest.mark.parametrize("path", SCALARS)
def test_noise_on_a_single_number_is_its_scale_times_the_streams_normal(path):
    """Word by word: each of 200 draws tells the scale to 0.002 %, as no number of samples could.

    `test_rng` and `test_exact_draws` check the law of these normals.
    """
    noise, std = SCALARS[path]
    source = Planted(200)
    found, normals = np.array([noise(source) for _ in range(200)]), np.array(source.left)
    assert abs(normals).min() < 0.02 < 2 < abs(normals).max()  # near the middle and far from it
    for factor in (1.0, *WRONG):
        equal = np.isclose(found, factor * std * normals, rtol=2e-5, atol=2e-6)
        assert equal.mean() == 1 if factor == 1 else equal.mean() < 0.02


# --- what noise is added to ----------------------------------------------------------------------


class Silent:
    """A stream whose normals are all zero."""

    def words(self, size):
        return np.full(size, 2**64 - 1, np.uint64)


@pytest.mark.parametrize("mechanism", [RULE, PAIRS], ids=["weight", "pairs"])
def test_a_passed_test_releases_the_weighted_mean_of_the_rows_and_no_multiple_of_it(mechanism):
    """The oracle counts neighbours one by one; the outlier has no weight, two rows have a part."""
    chance = np.random.default_rng(0)
    centre = np.full(8, 0.2)
    values = centre + chance.uniform(-1, 1, (60, 8)) * 0.02 / math.sqrt(8) / 2
    values[0] = -centre
    near = [[math.dist(a, b) <= 2 * 0.02 for b in values] for a in values]
    weights = np.clip(6 * np.sum(near, 1) / 60 - 3, 0, 1)
    released = mechanism.release(rows(values), Silent(), 1)
    assert released.released["test_passed"]
    wanted = weights @ values / weights.sum()
    assert released.mean == pytest.approx(wanted, rel=1e-12)
    assert (abs(wanted - values.mean(0)) > 1e-3 * abs(wanted)).all()  # the plain mean is another
    assert np.linalg.norm(released.mean - centre) < 0.02


@pytest.mark.parametrize(
    "mechanism",
    [USER, SLOT, CAPPED, ADAPTIVE, ADAPTIVE_SLOT, RULE, PAIRS, groups(), groups(3)],
    ids=lambda mechanism: type(mechanism).__name__,
)
def test_without_noise_a_release_is_the_sum_over_the_public_denominator(mechanism):
    apart = np.diag([0.3, 0.4, 0.5, 0.6])
    bits = 1.5 if mechanism.adaptive else None
    m = 60 if mechanism.unit == RECORD_SLOT else 20
    kept = apart if mechanism.keeps_rows else None
    released = mechanism.release(CohortSum(apart.sum(0), {}, bits, kept), Silent(), 1)
    assert released.mean == pytest.approx(apart.sum(0) / m, rel=1e-14)
    if bits is not None:
        assert released.unclipped_fraction == pytest.approx(0.5 + 1.5 / m, rel=1e-14)
