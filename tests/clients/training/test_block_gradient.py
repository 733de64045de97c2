"""Gradients go straight to their lanes' rows of a block, and are those of each unit alone."""

from __future__ import annotations

import pytest
import torch

from helpers import tiny
from helpers.cohort_sums import relative_error, setting
from userdp.clients.models import acceleration, language_model, stacked_lora
from userdp.clients.training import block_gradient, cohort_update
from userdp.clients.training.memory import EngineSettings

EVEN = [[record] * 2 for unit in tiny.ragged_units(6) for record in unit[:1]]
UNITS = {"even": EVEN, "ragged": tiny.ragged_units(6)}


def gradients(model, adapters, units, max_tokens=10**6):
    """(units, D) of units that are one block."""
    block = cohort_update.load_block(model, units, max_tokens, one_adapter=adapters.dim() == 1)
    given = (block.batches, len(units), EngineSettings())
    return block_gradient.added_up(model, adapters, *given)[0]


@pytest.fixture
def copies(monkeypatch):
    """Whether each leaf's gradient was copied to its place, pass after pass."""
    seen, gather = [], language_model._gather

    def watched(grads, parts):
        seen.extend(grad is not part for grad, part in zip(grads, parts, strict=True))
        gather(grads, parts)

    monkeypatch.setattr(language_model, "_gather", watched)
    return seen


@pytest.fixture
def written(monkeypatch):
    """How many lanes of each stack that was written in place had begun before."""
    seen, write = [], block_gradient._Rows._write

    def watched(self, adapters, batch, lanes, begun):
        seen.append(begun)
        return write(self, adapters, batch, lanes, begun)

    monkeypatch.setattr(block_gradient._Rows, "_write", watched)
    return seen


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_no_leafs_gradient_is_copied(family, dtype, checkpointing, packed, own, copies, written):
    model, adapter = setting(family, dtype)
    acceleration.checkpoint(model.module, checkpointing)
    model.pack(packed)
    singles = [unit[:1] for unit in tiny.ragged_units(6)]
    adapters = adapter.expand(len(singles), -1) + 0.0 if own else adapter
    got = gradients(model, adapters, singles)
    assert len(copies) >= len(model.layout.shapes)
    assert not any(copies)
    assert got.norm(dim=1).min() > 0
    if dtype == torch.float32:  # padded stacks of fixed shape have rows that fill them
        assert written == [0]


@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("max_tokens", [1, 23, 60, 10**6])
def test_lanes_whose_records_are_in_several_stacks_have_the_gradients_of_units_alone(
    kind, packed, own, max_tokens, written
):
    model, adapter = setting()
    units = UNITS[kind]
    steps = torch.randn(len(units), len(adapter), generator=torch.Generator().manual_seed(3))
    adapters = adapter + 0.1 * steps if own else adapter
    starts = adapters if own else adapter.expand(len(units), -1)
    wanted = [gradients(model, a, [unit])[0] for a, unit in zip(starts, units, strict=True)]
    del written[:]
    model.pack(packed)
    got = gradients(model, adapters, units, max_tokens)
    assert max(map(relative_error, got, wanted)) < 1e-5
    if packed:
        assert len(written) > 1 or max_tokens > 60
        assert (max(written) > 0) == (max_tokens < 10**6)  # a lane goes on in the next stack


@pytest.mark.slow
@pytest.mark.trust
def test_compiled_layers_have_the_same_gradients(copies):
    """They are copied: what a compiler traces has no destination."""
    model, adapter = setting()
    wanted = {}
    for packed in (False, True):
        model.pack(packed)
        wanted[packed] = gradients(model, adapter, EVEN)
    del copies[:]
    acceleration.compile_layers(model.module, True, backend="eager")
    for packed, expected in wanted.items():
        model.pack(packed)
        assert relative_error(gradients(model, adapter, EVEN), expected) < 1e-5
    assert all(copies)
    acceleration.compile_layers(model.module, False)
    torch._dynamo.reset()


@pytest.mark.parametrize("starts", [None, torch.tensor([0, 4, 8], dtype=torch.int32)])
def test_a_layer_that_is_called_twice_has_the_sum_of_both_gradients(starts):
    source = torch.Generator().manual_seed(0)
    x, a, b = (torch.randn(*shape, generator=source) for shape in ((2, 4, 6), (2, 3, 6), (2, 6, 3)))
    layer = stacked_lora.StackedLora(torch.nn.Linear(6, 6).requires_grad_(False), 0.5)
    leaves = [factor.clone().requires_grad_() for factor in (a, b)]
    rows = torch.full((2, 36), torch.nan)
    parts = [rows[:, :18].view(2, 3, 6), rows[:, 18:].view(2, 6, 3)]
    places = [stacked_lora.Place(layer, name) for name in ("a", "b")]
    stacked_lora.attach(places, leaves, starts, parts)
    shape = (2, 4, 6) if starts is None else (1, 8, 6)
    grads = torch.autograd.grad((layer(layer(x.view(shape))) ** 2).sum(), leaves)
    language_model._gather(grads, parts)
    stacked_lora.detach(places)
    assert not layer.destinations

    def once(value):
        adapted = (value @ leaves[0].mT) @ leaves[1].mT
        return layer.base(value) + 0.5 * adapted

    wanted = torch.autograd.grad((once(once(x)) ** 2).sum(), leaves)
    for part, expected in zip(parts, wanted, strict=True):
        assert relative_error(part, expected) < 1e-6


@pytest.mark.parametrize("packed", [False, True])
def test_a_leaf_without_a_gradient_is_noticed(packed):
    model, adapter = setting()
    model.pack(packed)
    model.module.transformer.h = model.module.transformer.h[:1]
    with pytest.raises(RuntimeError, match="not have been used"):
        gradients(model, adapter, EVEN)


def test_memory_that_runs_out_leaves_the_rows_as_they_were(monkeypatch):
    model, adapter = setting()
    model.pack(True)
    [batch] = cohort_update.load_block(model, EVEN, 10**6).batches
    block = block_gradient._Rows(model, adapter, len(EVEN))
    block.rows[0], block._begun[0] = 7.0, True
    before = block.rows.clone()

    def full(adapters, batch, rows):
        rows.fill_(torch.nan)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(model, "gradients", full)
    with pytest.raises(torch.OutOfMemoryError):
        block.add(batch)
    assert torch.equal(block.rows, before)
