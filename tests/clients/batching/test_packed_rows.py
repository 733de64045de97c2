"""Packed rows: every record once, and its gradient is that of the record alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import families, tiny
from helpers.cohort_sums import check_the_same_for_any_engine, relative_error, setting
from helpers.plain_updates import peft_update
from userdp.clients.batching import packed_rows
from userdp.clients.models import isolation_probe
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.clients.training import cohort_update
from userdp.clients.training.cohort_update import LocalTraining
from userdp.clients.training.memory import EngineSettings
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data import masking

FAMILIES = ["gpt2", "llama", "qwen3", "gemma2", "gpt_neox", "opt"]


def packed(family="gpt2", dtype=torch.float32):
    model, adapter = setting(family, dtype)
    model.packed = True
    return model, adapter


def blocks():
    lengths = st.lists(st.integers(2, 12), min_size=1, max_size=4)
    return st.lists(lengths, min_size=1, max_size=8).map(
        lambda block: [
            [np.arange(1, n + 1) + 100 * u for n in unit] for u, unit in enumerate(block)
        ]
    )


def read_back(stack):
    """(lane, inputs, targets) of each record, by positions and weights alone."""
    flat, ids = stack.inputs.ravel(), stack.position_ids.ravel()
    targets = dict(zip(stack.predicted.tolist(), stack.targets.tolist(), strict=True))
    lanes = np.repeat(stack.lanes, np.diff(stack.starts))
    bounds = [*np.flatnonzero(ids == 0).tolist(), len(ids)]
    return [
        (int(lanes[start]), (*flat[start:end].tolist(), targets[end - 1]))
        for start, end in itertools.pairwise(bounds)
    ]


@given(block=blocks(), most=st.integers(1, 60))
def test_every_record_is_there_once_in_its_lane_and_nothing_else(block, most):
    stacks = list(packed_rows.stacks(block, most))
    longest = max(len(record) - 1 for unit in block for record in unit)
    wanted = [(lane, tuple(r.tolist())) for lane, unit in enumerate(block) for r in unit]
    assert [one for stack in stacks for one in read_back(stack)] == wanted
    assert all(stack.inputs.size <= max(most, longest) for stack in stacks)
    total = {}
    for stack in stacks:
        owner = np.searchsorted(stack.starts, stack.predicted, side="right") - 1
        for lane, weight in zip(stack.lanes[owner], stack.weights, strict=True):
            total[lane] = total.get(lane, 0) + weight
    assert all(total[lane] == pytest.approx(1, rel=1e-5) for lane in range(len(block)))


@given(block=blocks(), most=st.integers(12, 60))
def test_filled_rows_have_one_length_and_hold_the_same_with_weight(block, most):
    free, filled = (list(packed_rows.stacks(block, most, fixed=f)) for f in (False, True))
    for one, other in zip(free, filled, strict=True):
        assert other.inputs.size == len(other.predicted) == most
        counted = np.flatnonzero(other.weights)
        np.testing.assert_array_equal(other.predicted[counted], one.predicted)
        np.testing.assert_array_equal(other.targets[counted], one.targets)
        np.testing.assert_array_equal(other.weights[counted], one.weights)
        assert sum(other.lengths) == most
        assert max(other.lengths) == max(one.lengths)


@given(block=blocks(), most=st.integers(20, 60))
def test_halves_hold_the_same_records(block, most):
    for stack in packed_rows.stacks(block, most):
        if len(stack.records) > 1:
            parts = packed_rows.halves(stack)
            assert len(parts) >= 2
            assert [one for part in parts for one in read_back(part)] == read_back(stack)
            weights = np.concatenate([part.weights for part in parts])
            np.testing.assert_array_equal(weights, stack.weights)


def test_tokens_that_are_not_learned_are_read_and_not_predicted():
    record = np.array([*masking.given([5, 6]), 7, *masking.given([8]), 9])
    [stack] = packed_rows.stacks([[record], [np.array([1, 2])]], 100)
    assert stack.inputs.ravel()[:4].tolist() == [5, 6, 7, 8]
    assert stack.targets.tolist() == [7, 9, 2]
    assert stack.weights.tolist() == [0.5, 0.5, 1.0]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_sum_is_that_of_each_unit_alone(family):
    model, adapter = packed(family)
    check_the_same_for_any_engine(model, adapter, tiny.ragged_units(7), 0.5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("steps", [1, 3])
def test_packed_and_padded_agree(family, steps):
    """From the second step on each unit has an adapter of its own."""
    model, adapter = packed(family)
    units = [*tiny.ragged_units(6), *tiny.masked_units(6)]
    local, engine = LocalTraining(steps=steps, lr=0.3), EngineSettings(max_tokens=100)

    def total():
        return cohort_update.cohort_sum(
            model, adapter, units, clip_norm=0.5, local=local, engine=engine
        ).total

    found, model.packed = total(), False
    assert relative_error(found, total()) < 1e-5


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("max_tokens", [23, 10**6])
def test_local_steps_in_packed_rows_equal_plain_sgd_alone_in_float64(family, max_tokens):
    model, adapter = packed(family)
    base, units = tiny.base_model(family), tiny.ragged_units(5)
    local = LocalTraining(steps=3, lr=0.3)
    block = cohort_update.load_block(model, units, max_tokens, one_adapter=False)
    assert all(isinstance(batch.stack, packed_rows.PackedStack) for batch in block.batches)
    engine = EngineSettings(max_tokens=max_tokens)
    got, _ = cohort_update.block_updates(model, adapter, block, local, engine)
    for row, unit in zip(got, units, strict=True):
        wanted = peft_update(base, model, adapter, unit, 3, 0.3, torch.float64)
        assert relative_error(row, wanted) < 1e-5


def blocks_rows(model, adapter, units, steps):
    """(units, D) updates before the clip, of units that are one block."""
    local = LocalTraining(steps=steps, lr=0.3)
    block = cohort_update.load_block(model, units, 10**6, one_adapter=steps == 1)
    return cohort_update.block_updates(model, adapter, block, local, EngineSettings())[0]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_in_bfloat16_local_steps_give_the_same_bits_whoever_shares_the_row(family):
    model, adapter = packed(family, torch.bfloat16)
    units = tiny.ragged_units(9, longest=30)
    together = blocks_rows(model, adapter, units, 3)
    for number in (0, 4, 8):
        assert torch.equal(together[number], blocks_rows(model, adapter, [units[number]], 3)[0])
        beside = [*tiny.ragged_units(3, seed=8, longest=50), units[number]]
        assert torch.equal(together[number], blocks_rows(model, adapter, beside, 3)[3])


@given(block=blocks(), most=st.integers(12, 60))
def test_where_units_have_adapters_of_their_own_filled_rows_have_a_lane_for_each_record(
    block, most
):
    stacks = list(packed_rows.stacks(block, most, fixed=True, one_adapter=False))
    for one, other in zip(stacks, packed_rows.stacks(block, most, fixed=True), strict=True):
        np.testing.assert_array_equal(one.inputs, other.inputs)
        np.testing.assert_array_equal(one.weights, other.weights)
        count = len(one.records)
        assert one.lanes[:count].tolist() == [lane for lane, _ in one.records]
        assert np.diff(one.starts)[:count].tolist() == [len(r) - 1 for _, r in one.records]
        assert one.starts[-1] == most
        assert len(one.lanes) == len(one.starts) - 1 == count + (sum(one.lengths[count:]) > 0)
        assert not one.weights[one.starts[count] :].any()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_records_gradient_does_not_change_when_its_neighbours_in_the_row_do(family, dtype):
    model, _ = packed(family, dtype)
    found = isolation_probe.probe(model, 24)
    exact = dtype == torch.float32
    assert found.rounding <= (1e-5 if exact else 0)  # rows of fixed shape: bit by bit
    assert found.content == 0
    assert 0 < found.packing < (1e-5 if exact else 2e-2)


@pytest.mark.parametrize("family", ["mistral", "gemma3_text", "qwen2", "phi3", "olmo2", "granite"])
def test_windows_and_other_families_too(family):
    model = LanguageModel(families.build(family, "causal"), LoraSettings(r=2, alpha=4))
    model.pack(True)
    found = isolation_probe.probe(model, 40)
    assert max(found.rounding, found.packing) < 1e-5


@pytest.mark.parametrize("family", ["bloom", "falcon", "mamba"])
def test_a_model_that_sees_across_records_of_a_row_is_refused_by_name(family):
    model = LanguageModel(families.build(family, "causal"), LoraSettings(r=2, alpha=4))
    isolation_probe.probe(model, 24)
    model.pack(True)
    with pytest.raises(ConfigurationError, match=rf"this model \({family}\)"):
        isolation_probe.probe(model, 24)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_unit_whose_activations_are_not_finite_fails_alone(value):
    """In a row with a mask it would not: zero times NaN is NaN."""
    model, adapter = packed()
    poison = 7
    model.module.get_input_embeddings().register_forward_hook(
        lambda module, args, out: out.masked_fill((args[0] == poison)[..., None], value)
    )
    units = [[np.where(r == poison, 8, r) for r in unit] for unit in tiny.ragged_units(6)]
    bad = [np.array([3, poison, 5, 6])]

    def summed(given):
        return cohort_update.cohort_sum(
            model, adapter, given, clip_norm=0.5, local=LocalTraining(), engine=EngineSettings()
        )

    wanted, got = summed(units), summed([*units[:3], bad, *units[3:]])
    assert got.figures["failed_units"] == 1
    assert relative_error(got.total, wanted.total) < 1e-5
