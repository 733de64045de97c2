"""Declared against measured sensitivity between two files that differ in one user."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.file_neighbours import (
    CLIP,
    DECLARED,
    FAMILIES,
    REMOVED,
    K,
    assert_same_control_flow,
    moved,
)
from userdp.server.mechanisms.adaptive_clip import AdaptiveClip
from userdp.server.mechanisms.concentrated import statistic
from userdp.server.mechanisms.concentrated.mechanism import Concentrated
from userdp.server.mechanisms.group_privacy import GroupPrivacy
from userdp.server.mechanisms.matrix_factorization.mechanism import MatrixFactorization
from userdp.server.mechanisms.user_wise import UserWise

PUBLIC = {"users": DECLARED, "records_per_user": K, "clip_norm": CLIP, "noise_multiplier": 1.0}
LONG = [pytest.mark.slow, pytest.mark.trust]
RADIUS = 0.6 * CLIP  # some of the tiny users agree within it, and some do not
MECHANISMS = {
    "user_wise": UserWise(cohort=7, **PUBLIC),
    "capped": UserWise(cohort=8, cohort_max=4, **PUBLIC),
    "group_privacy": GroupPrivacy(cohort=7, **PUBLIC),
    "adaptive": UserWise(cohort=7, adaptive=AdaptiveClip(bit_noise=2.0), **PUBLIC),
    "concentrated": Concentrated(
        cohort=9, tau=RADIUS, min_weight=4.0, failure_probability=1e-6, **PUBLIC
    ),
}
# How far an update moves with the units that share its stack, in units of C: float32 rounds by the
# shape of a stack (4e-10 to 1e-7 measured on these cells); stacks in bfloat16 have fixed shapes.
ROUNDING = {"float32": 1e-5, "bfloat16": 1e-9}
# The next clip norm follows the bits of the last round; few of a capped cohort take part in one.
ROUNDS = {"adaptive": 1, "capped": 8}

FAST = [
    ("user_wise", "gpt2", "float32", ""),
    ("capped", "qwen2", "float32", ""),
    ("group_privacy", "llama", "float32", ""),
    ("adaptive", "gemma2", "float32", ""),
    ("concentrated", "opt", "float32", ""),
    ("user_wise", "classifier", "float32", ""),
    ("group_privacy", "llama", "bfloat16", ""),
    ("user_wise", "gpt2", "float32", "checkpointing"),
]
FULL = [
    (name, family, dtype, speed)
    for name in MECHANISMS
    for family in (*FAMILIES, "classifier")
    for dtype in ("float32", "bfloat16")
    for speed in ("", "checkpointing", "compile")
    if (name, family, dtype, speed) not in FAST
]


@pytest.mark.parametrize(
    ("name", "family", "dtype", "speed", "removed"),
    [
        *((*cell, REMOVED[1:]) for cell in FAST),
        *(pytest.param(*cell, REMOVED, marks=LONG) for cell in FULL),
    ],
)
def test_a_user_who_is_not_in_the_file_moves_the_sum_by_the_declared_sensitivity_at_most(
    tmp_path, monkeypatch, record_property, name, family, dtype, speed, removed
):
    mechanism, largest = MECHANISMS[name], 0.0
    for user in removed:
        options = {"family": family, "dtype": dtype, "speed": speed}
        options["rounds"] = ROUNDS.get(name, 2)
        pair = moved(tmp_path / str(user), monkeypatch, mechanism, user, **options)
        assert_same_control_flow(pair)
        declared = pair.took_part * mechanism.queries()[0].sensitivity
        if name == "concentrated":  # its update is recorded in units of its sensitivity
            declared = pair.took_part * CLIP
            assert_concentration_moves_as_declared(pair, mechanism)
        excess = (pair.distances - declared) / CLIP
        assert excess.max() <= ROUNDING[dtype]
        assert pair.bits <= 0.5
        largest = max(largest, pair.distances.max() / CLIP)
        record_property(f"excess {user}", float(excess.max()))
    assert largest > 0.5, "a removed user took part and reached their clip norm"


def assert_concentration_moves_as_declared(pair, mechanism):
    """The statistic moves by its sensitivity at most, the mean too wherever a test may pass."""
    runs = (pair.whole, pair.without)
    for rows in zip(*(run.mechanism.rows for run in runs), strict=True):
        found = [statistic.measure(part, RADIUS) for part in rows]
        weights = [one.statistic("weight") for one in found]
        assert abs(weights[0] - weights[1]) < mechanism.test_sensitivity
        if max(weights) >= mechanism.least_weight:
            means = [one.mean(part) for one, part in zip(found, rows, strict=True)]
            assert np.linalg.norm(means[0] - means[1]) < mechanism.mean_sensitivity


def test_over_several_nodes_the_sums_move_no_more_although_users_change_their_node(
    tmp_path, monkeypatch
):
    pair = moved(tmp_path, monkeypatch, MECHANISMS["user_wise"], 3, nodes=3, rounds=3)
    assert pair.took_part.any()
    assert (pair.distances <= pair.took_part * CLIP * (1 + 1e-5) + 1e-5 * CLIP).all()


def test_without_the_coupling_of_coins_other_users_would_move_the_sum_too(tmp_path, monkeypatch):
    """The comparison can fail: coins that stay at positions give others' coins to other users."""
    pair = moved(tmp_path, monkeypatch, MECHANISMS["user_wise"], 0, coupled=False, rounds=8)
    assert (pair.distances > pair.took_part * CLIP * 1.01).any()


@pytest.mark.parametrize("removed", REMOVED)
def test_no_user_moves_anothers_group_of_a_matrix_factorisation(tmp_path, monkeypatch, removed):
    """Its own coins, no coupling: only rounds of the removed user differ, and they lie b apart."""
    mechanism = MatrixFactorization(cohort=2.5, rounds=8, **PUBLIC)
    pair = moved(tmp_path, monkeypatch, mechanism, removed, coupled=False, rounds=8)
    differing = np.flatnonzero(pair.distances > 1e-5 * CLIP)
    assert len(differing) == 8 / mechanism.groups
    assert (np.diff(differing) >= mechanism.groups).all()
    assert (pair.distances <= CLIP * (1 + 1e-5)).all()
    assert pair.distances.max() > 0.5 * CLIP
    lines = [[e.get("event") for e in run.entries()] for run in (pair.whole, pair.without)]
    assert lines[0] == lines[1]
