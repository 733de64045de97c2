"""Memory that is short, runs out, or is kept: the sum stays what it is."""

from __future__ import annotations

import math
import weakref

import numpy as np
import pytest
import torch

from helpers import tiny
from helpers.cohort_sums import clipped, relative_error, setting
from userdp.clients.batching import packing
from userdp.clients.training import cohort_update, memory
from userdp.clients.training.memory import EngineSettings


class Small:
    """A device whose memory holds so many positions; keeps what was tried."""

    def __init__(self, model, positions):
        self.real, self.positions, self.tried = model.gradients, positions, []

    def __call__(self, adapters, batch):
        self.tried.append(batch.inputs.numel())
        if self.tried[-1] > self.positions:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.real(adapters, batch)


@pytest.mark.parametrize("steps", [1, 2])
def test_where_memory_runs_out_the_stack_is_halved_and_nothing_is_lost(steps, monkeypatch):
    model, adapter = setting()
    units = tiny.ragged_units(9)
    wanted = clipped(model, adapter, units, steps=steps).total
    small = Small(model, positions=40)
    monkeypatch.setattr(model, "gradients", small)
    asked = EngineSettings(max_tokens=200, max_lanes=3)
    local = cohort_update.LocalTraining(steps=steps, lr=0.3)
    got = cohort_update.cohort_sum(model, adapter, units, clip_norm=0.5, local=local, engine=asked)
    assert relative_error(got.total, wanted) < 1e-6
    assert small.tried[0] > 40
    assert 20 <= asked.max_tokens <= 40  # later stacks fit from the start, and are not tiny
    assert max(small.tried[-3:]) <= 40


def test_a_record_that_alone_does_not_fit_says_what_to_do(monkeypatch, caplog):
    model, adapter = setting()
    monkeypatch.setattr(model, "gradients", Small(model, positions=0))
    with pytest.raises(MemoryError, match=r"engine\.checkpointing=true"):
        clipped(model, adapter, tiny.ragged_units(2))
    assert "engine.checkpointing=true" in caplog.text


def test_nothing_of_a_block_outlives_it(monkeypatch):
    """A small tensor kept of each block would pin the memory around it: 10 kB a user."""
    model, adapter = setting()
    held, real = [], cohort_update.clip.clipped_sum

    def watched(rows, clip_norm):
        found = real(rows, clip_norm)
        held.extend(map(weakref.ref, (found.norms, found.factors, found.total, rows)))
        return found

    monkeypatch.setattr(cohort_update.clip, "clipped_sum", watched)
    alive = []

    def units():
        for unit in tiny.ragged_units(3) * 30:
            alive.append(sum(ref() is not None for ref in held))
            yield unit

    clipped(model, adapter, units(), max_lanes=1)
    assert len(held) == 4 * 90
    assert max(alive) <= 4


def test_halves_hold_every_row_once_with_its_lane_and_weight():
    block = tiny.ragged_units(5)
    for stack in packing.stacks(block, 60):
        if len(stack.records) < 2:
            continue
        parts = packing.halves(stack)
        assert sum(len(part.records) for part in parts) == len(stack.records)
        told = [(lane, record.tobytes()) for part in parts for lane, record in part.records]
        assert told == [(lane, record.tobytes()) for lane, record in stack.records]
        weights = np.concatenate([part.row_weights for part in parts])
        np.testing.assert_array_equal(weights, stack.row_weights)


def test_sizes_follow_the_free_memory_and_what_was_asked_for(monkeypatch):
    model, _ = setting()
    lane = 4 * model.layout.size * 4  # bytes
    monkeypatch.setattr(memory, "_free_bytes", lambda device: 4 * 10.5 * lane)
    assert memory.fitted(model, 32, None, None).max_lanes == 10
    assert memory.fitted(model, 32, None, 3).max_lanes == 3
    assert memory.fitted(model, 32, 77, None).max_tokens == 77
    monkeypatch.setattr(memory, "_free_bytes", lambda device: math.inf)
    assert vars(memory.fitted(model, 32, None, None)) == vars(EngineSettings())
