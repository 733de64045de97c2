"""Engine sizes follow free memory; where memory runs out, stacks are halved and the sum stays."""

from __future__ import annotations

import math
import weakref

import numpy as np
import pytest
import torch

from helpers import tiny
from helpers.cohort_sums import clipped, relative_error, setting
from userdp.clients.training import clipping, cohort_update, memory
from userdp.clients.training.memory import EngineSettings
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.common.table import Table


class SmallDevice:
    """Gradients on a device whose memory holds ``positions``; records the sizes it was given."""

    def __init__(self, model, positions):
        self.gradients, self.positions, self.sizes = model.gradients, positions, []

    def __call__(self, adapters, batch, *rows):
        self.sizes.append(batch.inputs.numel())
        if self.sizes[-1] > self.positions:
            for some in rows:
                some.fill_(torch.nan)  # what was written before memory ran out
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.gradients(adapters, batch, *rows)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_where_memory_runs_out_the_stack_is_halved_and_nothing_is_lost(steps, packed, monkeypatch):
    model, adapter = setting()
    model.pack(packed)
    units = tiny.ragged_units(9)
    wanted = clipped(model, adapter, units, steps=steps).total
    device = SmallDevice(model, positions=40)
    monkeypatch.setattr(model, "gradients", device)
    engine = EngineSettings(max_tokens=200, max_lanes=3)
    local = cohort_update.LocalTraining(steps=steps, lr=0.3)
    got = cohort_update.cohort_sum(model, adapter, units, clip_norm=0.5, local=local, engine=engine)
    assert relative_error(got.total, wanted) < 1e-6
    assert device.sizes[0] > 40
    assert 20 <= engine.max_tokens <= 40  # later stacks fit from the start, and are not tiny
    assert max(device.sizes[-3:]) <= 40


def test_where_shapes_are_fixed_a_stack_that_does_not_fit_changes_no_later_one(monkeypatch):
    """In bfloat16 another shape rounds in another way: it must not follow from others' records."""
    model, adapter = setting(dtype=torch.bfloat16)
    short, long = [np.arange(1, 12)], [np.arange(1, 60)]  # rows of 16 and of 64 positions
    gradients, shapes = model.gradients, []

    def small(adapters, batch, *rows):
        shapes.append(tuple(batch.inputs.shape))
        if shapes[-1] == (8, 64):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return gradients(adapters, batch, *rows)

    monkeypatch.setattr(model, "gradients", small)
    engine = EngineSettings(max_tokens=512, max_lanes=1)
    local = cohort_update.LocalTraining()
    run = {"clip_norm": 0.5, "local": local, "engine": engine, "keep_rows": True}
    rows = cohort_update.cohort_sum(model, adapter, [short, long], **run).rows
    assert shapes == [(8, 64), (4, 64), (32, 16)]
    alone = cohort_update.cohort_sum(model, adapter, [short], **run).rows
    assert (rows == alone[0]).all(1).any()  # bit by bit


def test_a_record_that_alone_does_not_fit_says_what_to_do(monkeypatch, caplog):
    model, adapter = setting()
    monkeypatch.setattr(model, "gradients", SmallDevice(model, positions=0))
    with pytest.raises(MemoryError, match=r"engine\.checkpointing=true"):
        clipped(model, adapter, tiny.ragged_units(2))
    assert "engine.checkpointing=true" in caplog.text


def test_the_tensors_of_a_block_are_freed_before_the_next_ones(monkeypatch):
    """A small tensor kept of each block would pin the memory around it: 10 kB per user."""
    model, adapter = setting()
    references = []

    def watched(rows, clip_norm, layout):
        result = clipping.clipped_sum(rows, clip_norm)
        tensors = (result.norms, result.factors, result.total, rows)
        references.extend(map(weakref.ref, tensors))
        return result

    rules = Table("contract.clipping", {"joint": watched})
    monkeypatch.setattr(clipping, "CLIP_RULES", rules)
    alive = []

    def units():
        for unit in tiny.ragged_units(3) * 30:
            alive.append(sum(reference() is not None for reference in references))
            yield unit

    clipped(model, adapter, units(), max_lanes=1)
    assert len(references) == 4 * 90
    assert max(alive) <= 4


def test_sizes_follow_the_free_memory_unless_they_are_given(monkeypatch):
    model, _ = setting()
    lane = 4 * model.layout.size * 4  # bytes
    monkeypatch.setattr(memory, "free_bytes", lambda device: 4 * 10.5 * lane)
    assert memory.fitted(model, 32, None, None).max_lanes == 10
    assert memory.fitted(model, 32, None, 3).max_lanes == 3
    assert memory.fitted(model, 32, 77, None).max_tokens == 77
    monkeypatch.setattr(memory, "free_bytes", lambda device: math.inf)
    assert vars(memory.fitted(model, 32, None, None)) == vars(EngineSettings())
    monkeypatch.setattr(memory, "_CPU_BLOCK", 7.5 * lane)
    assert memory.fitted(model, 32, None, None).max_lanes == 7
    monkeypatch.setattr(memory, "_CPU_BLOCK", lane / 2)
    assert memory.fitted(model, 32, None, None).max_lanes == 1


@pytest.mark.parametrize("size", ["max_tokens", "max_lanes"])
def test_sizes_below_one_are_refused(size):
    with pytest.raises(ConfigurationError, match=f"engine.{size}=0"):
        EngineSettings(**{size: 0})
