"""Clipped updates on a grid: no norm grows, every sum is exact, and no order of units matters."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from helpers import tiny
from userdp.clients.kernels import row_sums
from userdp.clients.training import clipping
from userdp.server.mechanisms.group_privacy import GroupPrivacy
from userdp.server.mechanisms.noise_grid import DISCRETE
from userdp.server.mechanisms.user_wise import UserWise

STEP, CLIP = 2.0**-22, 0.7
PUBLIC = {"users": 6, "cohort": 3, "clip_norm": 0.05, "noise_multiplier": 1.2, "noise": DISCRETE}
USER = UserWise(records_per_user=2, **PUBLIC)
SLOT = GroupPrivacy(records_per_user=2, **PUBLIC)


def half_of_each(rows, clip_norm, layout):
    """A rule of factors per coordinate, as one of another package may have."""
    factors = torch.full(rows.shape, 0.5, dtype=torch.float64)
    norms = torch.linalg.vector_norm(rows.double(), dim=1)
    failed = ~torch.isfinite(norms)
    factors[failed] = 0.0
    total = (rows.double() * factors).nan_to_num(0, 0, 0).sum(0)
    return clipping.ClippedSum(total, norms.masked_fill(failed, torch.inf), rows, factors)


def rules():
    return {"joint": clipping.clip_jointly, "other": clipping._bounded(half_of_each)}


def updates(seed, lanes=9, size=700):
    source = np.random.default_rng(seed)
    scales = 10.0 ** source.uniform(-6, 3, (lanes, 1))
    rows = torch.from_numpy((scales * source.standard_normal((lanes, size))).astype(np.float32))
    rows[2, 5], rows[4, 0] = torch.nan, torch.inf
    return rows


@pytest.mark.parametrize("rule", ["joint", "other"])
@pytest.mark.parametrize("seed", range(3))
def test_rounding_shrinks_every_coordinate_and_the_sum_is_exact(rule, seed, monkeypatch):
    monkeypatch.setitem(row_sums._BLOCK, "cpu", 1000)  # several blocks
    monkeypatch.setattr(row_sums, "_WIDTH", 100)
    clipped = rules()[rule](updates(seed), CLIP, tiny.language_model().layout)
    before, rows = clipped.rows(), clipped.rows(STEP)
    assert len(rows) == 7
    assert (rows.abs() <= before.abs()).all()
    assert ((rows - before).abs() < STEP).all()
    assert (rows * before >= 0).all()
    assert (rows / STEP == (rows / STEP).round()).all()
    assert all(exact_square(row) <= CLIP**2 for row in rows)
    total = clipped.total_on_grid(STEP)
    exact = [sum(int(value / STEP) for value in column) for column in rows.T.tolist()]
    assert [int(value / STEP) for value in total.tolist()] == exact


def exact_square(row):
    steps = [int(value / STEP) for value in row.tolist()]
    return sum(step * step for step in steps) * STEP * STEP


def test_rounding_to_the_nearest_would_break_the_clip():
    """Why it is towards zero: many coordinates just below C / sqrt(D) round up together."""
    row = torch.full((1, 10_000), CLIP / 100, dtype=torch.float32)
    step = CLIP / 150
    assert torch.linalg.vector_norm((row / step).round() * step) > 1.2 * CLIP


def test_the_order_and_the_blocks_of_units_leave_no_trace():
    rows = updates(3)
    whole = clipping.clipped_sum(rows, CLIP).total_on_grid(STEP)
    for order in itertools.islice(itertools.permutations(range(9)), 0, 300_000, 77_777):
        parts = [clipping.clipped_sum(rows[list(part)], CLIP) for part in (order[:4], order[4:])]
        assert torch.equal(sum(part.total_on_grid(STEP) for part in parts), whole)


@pytest.mark.parametrize("mechanism", [USER, SLOT], ids=["user", "slot"])
@pytest.mark.parametrize("nodes", [1, 3])
def test_a_round_asks_for_the_grid_of_its_noise_and_gets_sums_on_it(tmp_path, mechanism, nodes):
    run = tiny.federation(tmp_path, mechanism, tiny.people(6), nodes=nodes)
    run.run(2)
    assert {message.content["contract"]["grid"] for message in run.grid.sent} == {mechanism.grid}
    for total, mean in zip(run.mechanism.sums, run.mechanism.means, strict=True):
        for values in (total, mean * mechanism.expected_units):
            steps = values / mechanism.grid
            assert abs(steps - np.rint(steps)).max() < 1e-6
        assert np.abs(total).max() > 0


def test_without_discrete_noise_sums_are_on_no_grid(tmp_path):
    run = tiny.federation(tmp_path, dataclasses.replace(USER, noise="float"), tiny.people(6))
    run.run()
    steps = run.total / USER.grid
    assert run.grid.sent[0].content["contract"]["grid"] == 0.0
    assert not np.array_equal(steps, np.rint(steps))


def test_rows_that_are_kept_are_the_rounded_ones():
    clipped = clipping.clipped_sum(updates(5), CLIP)
    assert torch.equal(clipped.rows(STEP).sum(0), clipped.total_on_grid(STEP))
