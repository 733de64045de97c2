"""FFA-LoRA trains B alone: A keeps its initial values, and averaging of adapters is exact."""

from __future__ import annotations

import copy

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file

from helpers import lanes, small_world, tiny
from userdp.clients.batching.packing import stacks
from userdp.clients.models import export
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.clients.training import cohort_update
from userdp.sim import cli
from userdp.sim.config import hydra_compose

FAMILIES = ["gpt2", "llama", "gemma2"]
A, B = ".lora_A.", ".lora_B."


def setting(family="gpt2", *, freeze_a=True):
    base = tiny.base_model(family)
    settings = LoraSettings(r=3, alpha=6, freeze_a=freeze_a)
    model = LanguageModel(copy.deepcopy(base), settings)
    generator = torch.Generator().manual_seed(1)
    return base, model, model.initial + 0.1 * torch.randn(model.layout.size, generator=generator)


def peft_update(base, model, adapter, unit):
    """Oracle: one unit alone in plain peft, A without a gradient, one record at a time."""
    adapted = peft.get_peft_model(copy.deepcopy(base), model.peft_config)
    state = {n: torch.from_numpy(t.copy()) for n, t in model.layout.named(adapter.numpy()).items()}
    peft.set_peft_model_state_dict(adapted, state | dict(model.frozen))
    for name, parameter in adapted.named_parameters():
        parameter.requires_grad_(B in name)
    for record in unit:
        ids = torch.from_numpy(record)[None]
        (adapted(input_ids=ids, labels=ids).loss / len(unit)).backward()
    grads = {
        name.replace(".default.", "."): parameter.grad
        for name, parameter in adapted.named_parameters()
        if parameter.grad is not None
    }
    return -torch.cat([grads[name].flatten() for name, _ in model.layout.shapes])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_units_update_equals_plain_peft_with_a_frozen(family):
    base, model, adapter = setting(family)
    units = tiny.ragged_units(5)
    got, _ = lanes.block_updates(
        model, adapter, units, cohort_update.LocalTraining(), max_tokens=50
    )
    for row, unit in zip(got, units, strict=True):
        oracle = peft_update(base, model, adapter, unit)
        assert (row - oracle).norm() / oracle.norm() < 1e-5


def test_the_flat_vector_holds_b_alone_and_starts_at_zero():
    _, model, _ = setting()
    _, both, _ = setting(freeze_a=False)
    assert all(B in name for name, _ in model.layout.shapes)
    assert all(A in name for name in model.frozen)
    assert model.layout.size + sum(t.numel() for t in model.frozen.values()) == both.layout.size
    assert not model.initial.any()
    assert not both.frozen


def exported(model, adapter, folder):
    export.save(model, adapter.numpy(), folder, base="some/base")
    return load_file(folder / "adapter_model.safetensors")


def test_a_is_exported_as_it_was_initialised_and_is_the_one_of_ordinary_lora(tmp_path):
    _, model, adapter = setting()
    _, both, _ = setting(freeze_a=False)
    stored = exported(model, adapter, tmp_path)
    ordinary = both.layout.named(both.initial.numpy())
    for name in ordinary:
        if A in name:
            np.testing.assert_array_equal(stored[name].numpy(), ordinary[name])
        else:
            assert stored[name].abs().max() > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_peft_loads_the_export_and_gives_the_same_losses(family, tmp_path):
    base, model, adapter = setting(family)
    exported(model, adapter, tmp_path)
    record = np.arange(2, 16)
    [stack] = stacks([[record]], 100)
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path)).eval()
    with torch.no_grad():
        logits = loaded(input_ids=torch.from_numpy(record)[None]).logits[0, :-1]
    wanted = torch.nn.functional.cross_entropy(
        logits, torch.from_numpy(record[1:]), reduction="none"
    )
    got = model.token_losses(adapter, model.load(stack))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert (got - model.token_losses(None, model.load(stack))).abs().max() > 0.01


def products(model, adapter):
    """Every layer's ``scale * B A`` of an adapter, flat: the change of the base weights."""
    tensors = model.layout.named(adapter.numpy()) | {n: t.numpy() for n, t in model.frozen.items()}
    pairs = [(tensors[n], tensors[n.replace(B, A)]) for n in tensors if B in n]
    return 2.0 * np.concatenate([(b @ a).ravel() for b, a in pairs])


@pytest.mark.parametrize("freeze_a", [True, False])
def test_the_mean_adapter_is_the_mean_change_of_the_weights_only_with_a_frozen(freeze_a):
    """Sun et al., arXiv 2403.12313: the mean of products is not the product of means."""
    _, model, adapter = setting(freeze_a=freeze_a)
    units = tiny.ragged_units(6)
    local = cohort_update.LocalTraining(steps=2, lr=0.5)
    updates, _ = lanes.block_updates(model, adapter, units, local, max_tokens=64)
    mean_product = np.mean([products(model, adapter + row) for row in updates], axis=0)
    product_of_mean = products(model, adapter + updates.mean(0))
    change = np.linalg.norm(mean_product - products(model, adapter))
    gap = np.linalg.norm(mean_product - product_of_mean) / change
    assert gap < 1e-5 if freeze_a else gap > 1e-3


def test_a_run_by_the_command_trains_b_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
    arguments = small_world.overrides("model.lora.freeze_a=true", f"output={tmp_path / 'run'}")
    assert cli.main(["run", *arguments]) == 0
    stored = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    started = compose_model(arguments).frozen
    assert started.keys() == {name for name in stored if A in name}
    for name, tensor in started.items():
        torch.testing.assert_close(stored[name], tensor, rtol=0, atol=0)
    assert all(stored[name].abs().max() > 0 for name in stored if B in name)


def compose_model(arguments):
    from userdp.sim.inputs import run_inputs

    return run_inputs.build(hydra_compose.settings(arguments)[0]).model
