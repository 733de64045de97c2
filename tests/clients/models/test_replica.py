"""A replica computes what its original does, and neither sees the other's adapter."""

from __future__ import annotations

import pytest
import torch

from helpers import tiny, tiny_classes
from helpers.replicas import CPU
from userdp.clients.batching import packing
from userdp.clients.models import acceleration, replica
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings

ELSEWHERE = torch.device("meta")  # a device that every machine has, without values


def adapted(family="llama", *, freeze_a=False, classes=False):
    lora = LoraSettings(r=2, alpha=4, freeze_a=freeze_a)
    if classes:
        return LanguageModel(tiny_classes.base_model(family), lora, tiny_classes.CLASSES)
    return LanguageModel(tiny.base_model(family), lora)


def everything(module):
    """All tensors that the modules hold, plain attributes included."""
    plain = [tensor for _, _, tensor in replica._plain_tensors(module)]
    return [*module.parameters(), *module.buffers(), *plain]


def gradients(model, unit):
    [stack] = packing.stacks([unit], 10**6, model.shapes)
    return model.gradients(model.initial + 0.1, model.load(stack))[0]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("freeze_a", [False, True])
def test_a_replica_has_the_gradients_of_its_original_bit_by_bit(family, freeze_a):
    model = adapted(family, freeze_a=freeze_a)
    copied = replica.replica(model, CPU, {})
    for unit in tiny.ragged_units(3):
        assert torch.equal(gradients(copied, unit), gradients(model, unit))
    assert copied.layout == model.layout


@pytest.mark.parametrize("family", ["gpt2", "roberta"])
def test_a_replica_of_a_classifier_has_its_gradients(family):
    model = adapted(family, classes=True)
    unit = [torch.tensor([~3, ~4, ~5, 1]).numpy()]
    assert torch.equal(gradients(replica.replica(model, CPU, {}), unit), gradients(model, unit))


def test_on_the_same_device_tensors_are_shared_and_modules_are_not():
    model = adapted(freeze_a=True)
    copied = replica.replica(model, CPU, {})
    mine, theirs = ({id(t) for t in everything(one.module)} for one in (model, copied))
    assert mine == theirs
    assert not set(model.module.modules()) & set(copied.module.modules())
    leaves = copied.leaves(copied.initial, 1)
    with copied._adapted(leaves):
        assert all(getattr(place.module, place.attribute) is None for place in model._places)


@pytest.mark.parametrize("freeze_a", [False, True])
def test_on_another_device_no_tensor_is_left_behind_and_the_original_stays(freeze_a):
    model = adapted(freeze_a=freeze_a)
    before = [(id(tensor), tensor.clone()) for tensor in everything(model.module)]
    copied = replica.replica(model, ELSEWHERE, {})
    there = everything(copied.module)
    assert len(there) == len(before)
    assert {tensor.device.type for tensor in there} == {"meta"}
    assert copied.device == ELSEWHERE
    assert copied.module.device.type == "meta"
    head = copied._task._head
    assert head.weight is copied.module.get_output_embeddings().weight
    assert not any(parameter.requires_grad for parameter in copied.module.parameters())
    for (name, value), tensor in zip(before, everything(model.module), strict=True):
        assert id(tensor) == name
        assert torch.equal(tensor, value)


def test_replicas_around_the_same_base_tensors_share_their_copies():
    """A sweep builds an adapter for each of its jobs, around one base model."""
    model, moved = adapted(), {}
    first, second = (replica.replica(model, ELSEWHERE, moved) for _ in range(2))
    pairs = zip(first.module.parameters(), second.module.parameters(), strict=True)
    assert all(one is other for one, other in pairs)
    assert not set(first.module.modules()) & set(second.module.modules())


def test_a_replica_of_a_checkpointed_model_checkpoints_its_own_layers():
    model = adapted("gpt2")
    acceleration.checkpoint(model.module, True)
    copied = replica.replica(model, CPU, {})
    layers = [layer for layer in copied.module.modules() if "forward" in vars(layer)]
    assert layers
    for layer in layers:
        assert vars(layer)["forward"].args[0].__self__ is layer
