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
    draws = [secrets.stream(*name).uniform(SIZE) for name in names]
    for first, second in itertools.combinations(draws, 2):
        assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(SIZE)


@pytest.mark.parametrize("stream", [rng.OsEntropy(), rng.Secrets(replay_seed=3).stream("noise", 1)])
def test_uniforms_lie_inside_the_open_interval_and_are_uniform(stream):
    draws = stream.uniform(SIZE)
    assert draws.dtype == np.float64
    assert 0 < draws.min() <= draws.max() < 1
    assert len(np.unique(draws)) == SIZE
    assert stats.kstest(draws, "uniform").pvalue > 1e-6
    assert stats.kstest(draws**1.1, "uniform").pvalue < 1e-6


class Extremes:
    """The smallest and the largest uniform that a stream can give."""

    def uniform(self, size):
        return np.array([0.5, 2**52 - 0.5]) * 2.0**-52


def test_normals_are_standard_and_wrong_scales_are_rejected():
    draws = rng.standard_normal(rng.OsEntropy(), SIZE)
    assert draws.dtype == np.float64
    assert stats.kstest(draws, "norm").pvalue > 1e-6
    for wrong in (2 / 3, 3 / 2):
        assert stats.kstest(wrong * draws, "norm").pvalue < 1e-6


def test_normals_are_symmetric_and_finite_at_the_ends_of_a_stream():
    low, high = rng.standard_normal(Extremes(), 2)
    assert -8.3 < low < -8.1
    assert high == pytest.approx(-low, rel=1e-3)


def test_a_replayed_stream_depends_on_its_round_and_seed_only():
    def draw(seed, number):
        return rng.Secrets(replay_seed=seed).stream("noise", number).uniform(4).tolist()

    assert draw(1, 5) == draw(1, 5)
    assert len({tuple(draw(s, n)) for s in (1, 2) for n in (1, 2)}) == 4


def test_seeding_the_global_generators_replays_no_secret_and_moves_no_public_stream():
    drawn = []
    for _ in range(2):
        seed_everything()
        secret = rng.Secrets().stream("noise", 1).uniform(4)
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
