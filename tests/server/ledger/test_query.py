"""Queries of a round: they combine like one Gaussian, and impossible ones are refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userdp.server.ledger import ledger
from userdp.server.ledger.query import Query

EVENT = {"sampling_rate": 0.1, "noise_multiplier": 2.0, "group_size": 1}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.jsonl"


@given(st.lists(st.floats(0.05, 20), min_size=1, max_size=5), st.floats(1e-3, 1e3))
def test_queries_combine_like_one_gaussian(tmp_path_factory, multipliers, clip):
    """Oracle: the whitened sensitivities form one vector; 1/z is its length."""
    z = 1 / math.hypot(*(1 / each for each in multipliers))
    event = {**EVENT, "noise_multiplier": z}
    queries = [
        Query(name=f"q{i}", sensitivity=clip * 2**i, noise_std=each * clip * 2**i)
        for i, each in enumerate(multipliers)
    ]
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    with ledger.Ledger.create(path, {}) as book:
        book.intend(1, event, queries)
        for wrong in (2 / 3, 3 / 2, 1.0001):
            with pytest.raises(ValueError, match="combine"):
                book.intend(2, {**event, "noise_multiplier": wrong * z}, queries)


def test_a_joint_release_with_clip_bits_has_the_known_multiplier(path):
    """Andrew et al.: m=64, sigma_b=3.2 and z=1 leave z_D=1.012435 for the update."""
    bits = Query(name="clip_bits", sensitivity=0.5, noise_std=3.2)
    z_update = (1 - (2 * 3.2) ** -2) ** -0.5
    assert z_update == pytest.approx(1.012435, abs=1e-6)
    update = Query(name="update", sensitivity=0.3, noise_std=0.3 * z_update)
    with ledger.Ledger.create(path, {}) as book:
        book.intend(1, {"noise_multiplier": 1.0}, [update, bits])
        with pytest.raises(ValueError, match="update"):
            book.intend(2, {"noise_multiplier": 1.0}, [update])


def test_a_run_without_noise_is_recorded_as_such(path):
    unclipped = Query(name="update", sensitivity=math.inf, noise_std=0.0)
    with ledger.Ledger.create(path, {}) as book:
        book.intend(1, {**EVENT, "noise_multiplier": 0.0}, [unclipped])
        with pytest.raises(ValueError, match="combine"):
            book.intend(2, EVENT, [unclipped])
    assert ledger.verify(path).spent == [({**EVENT, "noise_multiplier": 0.0}, 1)]


@pytest.mark.parametrize(
    ("sensitivity", "noise_std"),
    [(0.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (1.0, -1.0), (1.0, math.inf), (1.0, math.nan)],
)
def test_impossible_queries_are_refused(sensitivity, noise_std):
    with pytest.raises(ValueError, match="update"):
        Query(name="update", sensitivity=sensitivity, noise_std=noise_std)
