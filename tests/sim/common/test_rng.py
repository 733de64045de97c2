"""Streams: public ones are a function of their name, secret ones of nothing in the process."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from scipy import stats

from userdp.sim.common import rng

SIZE = 20_000
GOLDEN = [513310, 582452, 242292]  # changing it changes every stored selection and split


def seed_everything():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def test_a_public_stream_is_the_same_in_every_process_and_release():
    assert rng.generator(1, "selection", 7).integers(0, 10**6, 3).tolist() == GOLDEN


def test_streams_of_different_seeds_purposes_and_keys_are_uncorrelated():
    names = [(1, "a"), (2, "a"), (1, "b"), (1, "a", 1), (1, "a", 1, 2), (1, "a", 12), (1, "a1", 2)]
    draws = [rng.generator(*name).standard_normal(SIZE) for name in names]
    for first, second in itertools.combinations(draws, 2):
        assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(SIZE)


@pytest.mark.parametrize("secrets", [rng.Secrets(), rng.Secrets(replay_seed=3)])
def test_secret_streams_of_rounds_and_purposes_are_uncorrelated(secrets):
    names = [("noise", 1), ("noise", 2), ("cohort", 1), ("cohort", 2)]
    draws = [secrets.stream(*name).words(SIZE).astype(float) for name in names]
    for first, second in itertools.combinations(draws, 2):
        assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(SIZE)


@pytest.mark.parametrize("stream", [rng.OsEntropy(), rng.Secrets(replay_seed=3).stream("noise", 1)])
def test_all_64_bits_of_a_word_are_independent_coins(stream):
    words = stream.words(SIZE)
    assert words.dtype == np.uint64
    assert len(np.unique(words)) == SIZE
    bits = np.unpackbits(words.view(np.uint8)).reshape(SIZE, 64).astype(float)
    assert abs(bits.mean(0) - 0.5).max() < 5 / np.sqrt(4 * SIZE)
    correlations = np.corrcoef(bits.T) - np.eye(64)
    assert abs(correlations).max() < 6 / np.sqrt(SIZE)


class Planted:
    """A stream of given words, and of random ones after these."""

    def __init__(self, *words):
        self.left, self.source = [np.asarray(part, np.uint64) for part in words], rng.OsEntropy()

    def words(self, size):
        return self.left.pop(0)[:size] if self.left else self.source.words(size)


def test_normals_are_standard_and_a_scale_three_percent_off_is_rejected():
    draws = rng.standard_normal(rng.Secrets(replay_seed=0).stream("noise", 1), 10 * SIZE)
    assert draws.dtype == np.float64
    assert abs(np.std(draws) - 1) < 0.01
    assert stats.kstest(draws, "norm", method="asymp").pvalue > 1e-3
    for wrong in (0.97, 1.03):
        assert abs(np.std(wrong * draws) - 1) > 0.02
        assert stats.kstest(wrong * draws, "norm", method="asymp").pvalue < 1e-6


@pytest.mark.parametrize("zeros", [1, 11, 12, 40, 52, 63])
def test_no_tail_of_the_normals_is_cut_or_coarse(zeros):
    """Given that its first bits are zero, a tail's probability is uniform on all below them."""
    words = rng.Secrets(replay_seed=0).stream("noise", 1).words(SIZE)
    signs = words & np.uint64(1 << 63)
    leading = (words & rng.ALL_BUT_SIGN) >> np.uint64(zeros) if zeros < 63 else 0 * words
    draws = rng.standard_normal(Planted(signs | leading), SIZE)
    assert ((draws > 0) == (signs > 0)).all()
    tails = stats.norm.sf(abs(draws)) * 2.0 ** (zeros + 1)
    assert len(np.unique(draws)) > 0.99 * SIZE
    assert stats.kstest(tails, "uniform").pvalue > 1e-3
    assert stats.kstest(tails**1.1, "uniform").pvalue < 1e-6


def test_the_support_of_the_normals_ends_beyond_37_standard_deviations_and_is_finite():
    nothing = [np.zeros(2)] * 20
    first = np.array([0, 1 << 63], np.uint64)
    low, high = rng.standard_normal(Planted(first, *nothing), 2)
    assert -38.5 < low < -37
    assert high == -low


def test_the_middle_of_the_normals_is_zero():
    middle = np.array([2**63 - 1, 2**64 - 1], np.uint64)
    assert (rng.standard_normal(Planted(middle), 2) == 0).all()


def test_a_replayed_stream_depends_on_its_round_and_seed_only():
    def draw(seed, number):
        return rng.Secrets(replay_seed=seed).stream("noise", number).words(4).tolist()

    assert draw(1, 5) == draw(1, 5)
    assert len({tuple(draw(s, n)) for s in (1, 2) for n in (1, 2)}) == 4


def test_seeding_the_global_generators_replays_no_secret_and_moves_no_public_stream():
    drawn = []
    for _ in range(2):
        seed_everything()
        secret = rng.Secrets().stream("noise", 1).words(4)
        drawn.append((secret, rng.generator(1, "x").random(4)))
    assert not np.array_equal(drawn[0][0], drawn[1][0])
    np.testing.assert_array_equal(drawn[0][1], drawn[1][1])


def test_drawing_leaves_the_global_generators_where_they_were():
    seed_everything()
    wanted = (random.random(), np.random.rand(), torch.rand(1).item())
    seed_everything()
    rng.standard_normal(rng.OsEntropy(), 10)
    rng.generator(0, "x").random(10)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == wanted
