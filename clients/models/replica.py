"""Copies a language model with its adapter's layers to another device.

A copy has modules of its own, so that two threads can attach their adapters at the same time, and
the same frozen tensors: copied on another device, shared on the same one, where they never change.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from userdp.clients.models.language_model import LanguageModel

# Tensors of a base model on another device: by the id of the original, which is held with it, so
# that no other tensor can get its id.
Moved = dict[int, tuple[Tensor, Tensor]]


def replica(model: LanguageModel, device: torch.device, moved: Moved) -> LanguageModel:
    """The model on a device, with modules of its own; compiled layers are not compiled in it.

    Args:
        moved: tensors of earlier replicas around the same base tensors on this device, which are
            used again; takes those of this one.
    """
    shared = [model.initial, *model.frozen.values()]
    memo: dict[int, object] = {id(tensor): tensor for tensor in shared}
    for tensor in (*model.module.parameters(), *model.module.buffers()):
        if id(tensor) not in moved:
            moved[id(tensor)] = tensor, _on(device, tensor)
        memo[id(tensor)] = moved[id(tensor)][1]
    copied = copy.deepcopy(model, memo)
    for module, name, tensor in _plain_tensors(copied.module):
        setattr(module, name, _on(device, tensor))
    copied.device = device
    return copied


def _on(device: torch.device, tensor: Tensor) -> Tensor:
    """The tensor itself if it is on the device, else a copy; of a parameter a frozen one."""
    if tensor.device == device:
        return tensor
    there = tensor.detach().to(device)
    return nn.Parameter(there, requires_grad=False) if isinstance(tensor, nn.Parameter) else there


def _plain_tensors(module: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Tensors that are plain attributes of modules, as a frozen A is."""
    for part in module.modules():
        for name, value in list(vars(part).items()):
            if isinstance(value, Tensor):
                yield part, name, value
