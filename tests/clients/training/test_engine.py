"""What speed and memory may change: the order of sums. Everything else stays."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
import transformers

from helpers import lanes, tiny
from helpers.cohort_sums import clipped, relative_error, setting
from userdp.clients.batching import device_batches, packing
from userdp.clients.models import acceleration
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.clients.training import cohort_update, memory


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("steps", [1, 2])
def test_stack_size_block_size_and_order_change_the_sum_by_float32_rounding(family, steps):
    model, adapter = setting(family)
    units = tiny.ragged_units(9)
    wanted = clipped(model, adapter, units, steps=steps).total
    for sizes in ({"max_tokens": 7}, {"max_lanes": 2}, {"max_tokens": 40, "max_lanes": 4}):
        for order in (units, units[::-1]):
            got = clipped(model, adapter, order, steps=steps, **sizes).total
            assert relative_error(got, wanted) < 1e-6
    assert relative_error(clipped(model, adapter, units[1:], steps=steps).total, wanted) > 1e-3


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_bfloat16_base_changes_a_units_update_by_its_rounding(family):
    """8 bits of mantissa, some dozen layers: a percent or two, nowhere near another unit's."""
    (exact, adapter), (rounded, _) = setting(family), setting(family, torch.bfloat16)
    units = tiny.ragged_units(6)
    wanted = clipped(exact, adapter, units, clip_norm=1e9).total
    got = clipped(rounded, adapter, units, clip_norm=1e9)
    assert got.total.dtype == torch.float64
    assert 1e-6 < relative_error(got.total, wanted) < 3e-2


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_checkpointing_changes_nothing_and_can_be_switched_off(family):
    model, adapter = setting(family)
    units = tiny.ragged_units(4)
    wanted = clipped(model, adapter, units).total
    kept = saved_bytes(model, adapter, units)
    acceleration.checkpoint(model.module, True)
    assert relative_error(clipped(model, adapter, units).total, wanted) < 1e-6
    assert saved_bytes(model, adapter, units) < 0.6 * kept
    acceleration.checkpoint(model.module, False)
    assert saved_bytes(model, adapter, units) == kept


def saved_bytes(model, adapter, units):
    """What the forward pass keeps for the backward one."""
    [stack] = packing.stacks(units, 10**6)
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.gradients(adapter, model.load(stack))
    return sum(sizes)


def test_captured_layers_change_the_sum_by_float32_rounding():
    """Captured and differentiated ahead of time, as by inductor, which takes minutes longer."""
    model, adapter = setting()
    units = tiny.ragged_units(4)
    wanted = clipped(model, adapter, units).total
    acceleration.compile_layers(model.module, True, backend="aot_eager")
    assert relative_error(clipped(model, adapter, units).total, wanted) < 1e-5
    assert any(layer._compiled_call_impl for layer in model.module.modules())
    acceleration.compile_layers(model.module, False)
    assert not any(layer._compiled_call_impl for layer in model.module.modules())


def test_lanes_that_share_an_adapter_have_the_gradients_of_lanes_with_copies_of_it():
    model, adapter = setting()
    [stack] = packing.stacks(tiny.ragged_units(4), 10**6)
    batch = model.load(stack)
    shared, _ = model.gradients(adapter, batch)
    copies, _ = model.gradients(adapter.repeat(len(batch.lanes), 1), batch)
    assert relative_error(shared, copies) < 1e-6
    assert all(leaf.stride(0) == 0 for leaf in model.leaves(adapter, 3))


def test_units_are_fetched_as_blocks_need_them():
    asked, most = 0, 0

    def fetched():
        nonlocal asked
        for unit in tiny.ragged_units(2) * 40:
            asked += 1
            yield unit

    for number, block in enumerate(packing.blocks(fetched(), 1), start=1):
        assert len(block) == 1
        most = max(most, asked - number)
    assert most <= 16
    assert asked == 80


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_what_is_made_ahead_comes_in_order_and_errors_come_through(kind):
    device, threads = torch.device(kind), set()

    def make(item):
        threads.add(threading.get_ident())
        if item == 7:
            raise ValueError("seven")
        return 10 * item

    assert list(device_batches.ahead(range(5), make, device)) == [0, 10, 20, 30, 40]
    assert (threading.get_ident() in threads) == (kind == "cpu")
    with pytest.raises(ValueError, match="seven"):
        list(device_batches.ahead(range(9), make, device))


def test_what_comes_behind_is_asked_for_one_before():
    asked = []
    items = device_batches.behind(asked.append(n) or n for n in range(4))
    assert [(n, len(asked)) for n in items] == [(0, 2), (1, 3), (2, 4), (3, 4)]


def test_torchs_gelu_takes_the_place_of_its_spellings_and_of_nothing_else():
    for written in (
        transformers.activations.NewGELUActivation(),
        transformers.activations.FastGELUActivation(),
    ):
        holder = torch.nn.Sequential(copy.deepcopy(written), torch.nn.GELU(), torch.nn.SiLU())
        others = list(holder)[1:]
        acceleration.fuse_activations(holder)
        x = torch.linspace(-6, 6, 501)
        torch.testing.assert_close(holder[0](x), written(x), rtol=1e-5, atol=1e-6)
        assert type(holder[0]) is torch.nn.GELU
        assert list(holder)[1:] == others


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_chosen_stack_fits_and_the_sum_is_the_cpus():
    cpu, adapter = setting()
    units = tiny.ragged_units(9)
    wanted = clipped(cpu, adapter, units).total
    gpu = LanguageModel(tiny.base_model("gpt2").cuda(), LoraSettings(r=3, alpha=6))
    asked = memory.fitted(gpu, 32, None, None)
    local = cohort_update.LocalTraining(lr=0.3)
    got = cohort_update.cohort_sum(
        gpu, adapter.cuda(), units, clip_norm=0.5, local=local, engine=asked
    )
    assert relative_error(got.total.cpu(), wanted) < 1e-4
    assert asked.max_tokens >= 31


def test_a_blocks_loss_does_not_depend_on_how_it_is_cut():
    model, adapter = setting()
    units = tiny.ragged_units(5)
    whole = lanes.block_updates(model, adapter, units, cohort_update.LocalTraining(), 10**6)[1]
    cut = lanes.block_updates(model, adapter, units, cohort_update.LocalTraining(), 9)[1]
    assert float(cut) == pytest.approx(float(whole), rel=1e-5)
