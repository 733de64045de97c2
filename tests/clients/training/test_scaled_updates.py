"""A node multiplies updates by the public scale before it clips them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from helpers import lanes, tiny
from userdp.clients.training import clipping, cohort_update
from userdp.clients.training.memory import EngineSettings

USERS, K, CLIP = 6, 3, 0.02


def bent(size):
    """(size,) from a thousandth to 1, shuffled: no coordinate's scale goes with its place."""
    return np.random.default_rng(5).permutation(np.geomspace(1e-3, 1, size)).astype(np.float32)


@pytest.mark.parametrize("scaled", [False, True])
def test_a_node_clips_what_it_scaled_and_adds_up_nothing_else(scaled):
    model, five = tiny.language_model(), tiny.ragged_units(5)
    adapter, local = model.initial, cohort_update.LocalTraining(steps=2, lr=0.3)
    scale = torch.from_numpy(bent(len(adapter))) if scaled else torch.ones(len(adapter))
    rows = lanes.block_updates(model, adapter, five, local, 10**6)[0].double() * scale
    norms = rows.norm(dim=1, keepdim=True)
    wanted = (rows * (CLIP / norms).clamp(max=1.0)).sum(dim=0)
    options = {"clip_norm": CLIP, "local": local, "engine": EngineSettings()}
    got = cohort_update.cohort_sum(model, adapter, five, scale=scale, **options)
    np.testing.assert_allclose(got.total, wanted, rtol=1e-3, atol=1e-6 * CLIP)
    assert got.figures["mean_update_norm"] == pytest.approx(float(norms.sum()), rel=1e-5)
    if not scaled:
        plain = cohort_update.cohort_sum(model, adapter, five, **options)
        assert np.array_equal(plain.total, got.total)


def test_a_product_that_overflows_costs_its_unit_and_no_other():
    model, five = tiny.language_model(), tiny.ragged_units(5)
    local, engine = cohort_update.LocalTraining(lr=1e6), EngineSettings()
    rows = lanes.block_updates(model, model.initial, five, local, 10**6)[0]
    second, largest = rows.abs().amax(dim=1).double().sort().values[-2:].tolist()
    limit = torch.finfo(torch.float32).max / math.sqrt(second * largest)
    scale = torch.full_like(model.initial, limit)
    got = cohort_update.cohort_sum(
        model, model.initial, five, clip_norm=CLIP, local=local, engine=engine, scale=scale
    )
    assert got.figures["failed_units"] == 1
    wanted = clipping.clipped_sum(rows[rows.abs().amax(dim=1) < largest], CLIP).total
    np.testing.assert_allclose(got.total, wanted, rtol=1e-3, atol=1e-5 * CLIP)
