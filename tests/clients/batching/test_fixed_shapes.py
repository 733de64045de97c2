"""In bfloat16 a unit's update is the same, bit by bit, whoever is computed beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers import lanes, tiny
from helpers.cohort_sums import clipped, relative_error, setting
from userdp.clients.batching import packing
from userdp.clients.batching.fixed_shapes import FixedShapes
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.training import cohort_update

SHAPES = FixedShapes(longest=None, positions=96)
FAMILIES = ["gpt2", "llama", "gemma2", "opt"]


def test_the_shape_of_a_stack_follows_from_one_length_alone():
    """The padded length from the record's own, and the number of rows from the padded length."""
    for seed in range(4):
        for stack in packing.stacks(tiny.ragged_units(9, seed, longest=60), 10**6, SHAPES):
            rows, width = stack.tokens.shape
            assert {SHAPES.width(len(record)) for _, record in stack.records} == {width}
            assert rows == SHAPES.rows(width, 10**6) == max(1, 96 // (width - 1))
            assert len(stack.positions()) == len(stack.token_weights()) == rows * (width - 1)


def test_every_record_is_there_once_and_weighs_what_it_weighed():
    units = tiny.masked_units(9)
    for shapes in (None, SHAPES):
        stacks = list(packing.stacks(units, 200, shapes))
        weights = np.zeros(len(units))
        for stack in stacks:
            owners = [lane for lane, _ in stack.records]
            weights += np.bincount(owners, stack.row_weights[: len(owners)], len(units))
        total = sum(float(stack.token_weights().sum()) for stack in stacks)
        np.testing.assert_allclose(weights, 1, rtol=1e-6)
        assert total == pytest.approx(len(units), rel=1e-6)
        assert sum(len(stack.records) for stack in stacks) == sum(map(len, units))


@pytest.mark.parametrize("family", FAMILIES)
def test_fixed_shapes_give_the_gradients_of_any_other_shapes(monkeypatch, family):
    (model, adapter), units = setting(family), tiny.masked_units(8)
    usual = clipped(model, adapter, units)
    monkeypatch.setattr(LanguageModel, "shapes", SHAPES)
    for max_tokens in (10**6, 40):
        fixed = clipped(model, adapter, units, max_tokens=max_tokens)
        assert relative_error(fixed.total, usual.total) < 1e-5
        assert fixed.figures["train_loss"] == pytest.approx(usual.figures["train_loss"], rel=1e-5)


@pytest.mark.parametrize(("family", "steps"), [*((family, 1) for family in FAMILIES), ("llama", 2)])
def test_an_update_in_bfloat16_does_not_move_with_the_units_beside_it(family, steps):
    model, adapter = setting(family, torch.bfloat16)
    units, local = tiny.ragged_units(12, longest=40), cohort_update.LocalTraining(steps=steps)

    def first(*others):
        updates, _ = lanes.block_updates(model, adapter, [units[0], *others], local, 10**6)
        return updates[0]

    alone = first()
    assert alone.norm() > 0
    for others in (units[1:2], units[1:7], units[7:0:-1], units[3:], units[1:] * 3):
        assert torch.equal(first(*others), alone)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_unit_the_sum_in_bfloat16_moves_by_c_and_no_more(family):
    """Every unit is clipped: what moves is one vector of norm C, up to float64 rounding."""
    model, adapter = setting(family, torch.bfloat16)
    units, norm = tiny.ragged_units(12, longest=40), 1e-3
    whole = clipped(model, adapter, units, norm).total
    for gone in (0, 5, 11):
        without = clipped(model, adapter, units[:gone] + units[gone + 1 :], norm).total
        assert np.linalg.norm(whole - without) == pytest.approx(norm, rel=1e-9)


def test_without_fixed_shapes_bfloat16_would_move_with_them(monkeypatch):
    monkeypatch.setattr(LanguageModel, "shapes", None)
    moved = []
    for family in FAMILIES:
        model, adapter = setting(family, torch.bfloat16)
        units, local = tiny.ragged_units(12, longest=40), cohort_update.LocalTraining()
        alone, _ = lanes.block_updates(model, adapter, units[:1], local, 10**6)
        beside, _ = lanes.block_updates(model, adapter, units, local, 10**6)
        moved.append(relative_error(beside[0], alone[0]))
    assert max(moved) > 1e-4


def test_a_stack_that_ran_out_of_memory_is_split_and_loses_nothing():
    [stack, *_] = packing.stacks(tiny.ragged_units(9, longest=16), 10**6, SHAPES)
    parts = packing.halves(stack, SHAPES)
    assert [row for part in parts for row in part.records] == list(stack.records)
    assert all(len(part.tokens) == len(stack.tokens) // 2 for part in parts)
    weights = sum(float(part.token_weights().sum()) for part in parts)
    assert weights == pytest.approx(float(stack.token_weights().sum()), rel=1e-6)
