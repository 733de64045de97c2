"""How far the sum of a round moves without one user, through the whole client path."""

from __future__ import annotations

import numpy as np
import pytest

from helpers import tiny
from userdp.server.mechanisms.group_privacy import GroupPrivacy
from userdp.server.mechanisms.user_wise import UserWise

USERS, K, CLIP = 6, 3, 0.02

PUBLIC = {"users": USERS, "cohort": 3, "clip_norm": CLIP, "noise_multiplier": 1.0}


USER = UserWise(records_per_user=K, **PUBLIC)


SLOT = GroupPrivacy(records_per_user=K, **PUBLIC)


BOUNDS = [pytest.param(USER, CLIP, id="user"), pytest.param(SLOT, K * CLIP, id="slot")]


ROUNDING = 1e-5  # a unit's float32 update depends a little on the shape of its stack


def one_round(folder, mechanism, population, **options):
    run = tiny.federation(folder, mechanism, population, **options)
    run.run()
    return run


def distances(tmp_path, mechanism, population, **options):
    """(users,) how far the sum before noise moves without each user, with the same coins."""
    whole = one_round(tmp_path / "whole", mechanism, population, **options)
    without = [
        one_round(tmp_path / str(u), mechanism, population.emptied(u), **options)
        for u in range(USERS)
    ]
    for run in without:
        assert_same_control_flow(whole, run)
    return np.array([np.linalg.norm(whole.total - run.total) for run in without])


def assert_same_control_flow(first, second):
    """The same messages to the same nodes, for the same units; the same entries in the ledger."""
    told = [
        [
            (
                m.metadata.dst_node_id,
                m.metadata.group_id,
                *map(str, m.content.config_records.values()),
            )
            for m in run.grid.sent
        ]
        for run in (first, second)
    ]
    assert told[0] == told[1]
    lines = [
        [(e["kind"], e.get("round"), e.get("event"), e.get("queries")) for e in run.entries()]
        for run in (first, second)
    ]
    assert lines[0] == lines[1]
