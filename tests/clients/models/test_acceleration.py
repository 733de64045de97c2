"""Fused activations, checkpointing and compilation change a sum by float rounding only."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers

from helpers import tiny
from helpers.cohort_sums import clipped, relative_error, setting
from userdp.clients.batching import packing
from userdp.clients.models import acceleration
from userdp.sim.common.errors import ConfigurationError


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_checkpointing_saves_memory_changes_nothing_and_can_be_switched_off(family):
    model, adapter = setting(family)
    units = tiny.ragged_units(4)
    wanted = clipped(model, adapter, units).total
    without = saved_bytes(model, adapter, units)
    acceleration.checkpoint(model.module, True)
    assert relative_error(clipped(model, adapter, units).total, wanted) < 1e-6
    assert saved_bytes(model, adapter, units) < 0.6 * without
    acceleration.checkpoint(model.module, False)
    assert saved_bytes(model, adapter, units) == without


def saved_bytes(model, adapter, units):
    """Memory of the tensors that the forward pass saves for the backward pass."""
    [stack] = packing.stacks(units, 10**6)
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.gradients(adapter, model.load(stack))
    return sum(sizes)


def test_a_model_without_known_layers_cannot_be_checkpointed():
    acceleration.checkpoint(torch.nn.Linear(2, 2), False)
    with pytest.raises(ConfigurationError, match=r"engine\.checkpointing=true"):
        acceleration.checkpoint(torch.nn.Linear(2, 2), True)


@pytest.mark.slow
@pytest.mark.trust
def test_compiled_layers_change_the_sum_by_float32_rounding():
    """Captured and differentiated ahead of time, without inductor, which takes minutes longer."""
    model, adapter = setting()
    units = tiny.ragged_units(4)
    wanted = clipped(model, adapter, units).total
    acceleration.compile_layers(model.module, True, backend="aot_eager")
    assert relative_error(clipped(model, adapter, units).total, wanted) < 1e-5
    assert any(layer._compiled_call_impl for layer in model.module.modules())
    acceleration.compile_layers(model.module, False)
    assert not any(layer._compiled_call_impl for layer in model.module.modules())


@pytest.mark.parametrize(
    "composed",
    [transformers.activations.NewGELUActivation(), transformers.activations.FastGELUActivation()],
)
def test_torchs_tanh_gelu_replaces_the_composed_ones_and_no_other_activation(composed):
    holder = torch.nn.Sequential(copy.deepcopy(composed), torch.nn.GELU(), torch.nn.SiLU())
    others = list(holder)[1:]
    acceleration.fuse_activations(holder)
    x = torch.linspace(-6, 6, 501)
    torch.testing.assert_close(holder[0](x), composed(x), rtol=1e-5, atol=1e-6)
    assert type(holder[0]) is torch.nn.GELU
    assert list(holder)[1:] == others
