"""Fused activations, activation checkpointing and compilation of a base model's layers.

Each changes speed or memory; results change by float rounding only. The base model's digest
(`LanguageModel.base_digest`) and the files saved of it stay the same.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import checkpoint as checkpointing
from transformers import activations
from transformers.modeling_layers import GradientCheckpointingLayer

from userdp.clients.models.stacked_lora import StackedLora
from userdp.sim.common.errors import ConfigurationError

# Both are 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) (Hendrycks & Gimpel, arXiv 1606.08415).
_TANH_GELU = (activations.NewGELUActivation, activations.FastGELUActivation)


def fuse_activations(base: nn.Module) -> None:
    """Replace the tanh-GELUs that transformers computes in several operations by torch's one."""
    for module in list(base.modules()):
        for name, child in module.named_children():
            if type(child) in _TANH_GELU:
                setattr(module, name, nn.GELU(approximate="tanh"))


def checkpoint(base: nn.Module, on: bool) -> None:
    """Switch activation checkpointing of each layer on or off (Chen et al., arXiv 1604.06174).

    A checkpointed layer keeps its inputs only, and computes its activations again in the backward
    pass.

    Raises:
        ConfigurationError: ``on``, and the model has no layers that transformers can checkpoint.
    """
    layers = _layers(base)
    if on and not layers:
        raise ConfigurationError("engine.checkpointing=true: this model cannot be checkpointed.")
    for layer in layers:
        vars(layer).pop("forward", None)
        if on:
            vars(layer)["forward"] = functools.partial(_checkpointed, layer.forward)


def _checkpointed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    # The layers have no active dropout, so there is no random state to restore.
    return checkpointing.checkpoint(
        forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs
    )


# Versions of a layer's code that torch may keep, where it can be told. It compiles one for each of:
# one lane, lanes that share an adapter, lanes with their own; one row a lane or several; the first
# layer, whose input takes no gradient, and the others; and for evaluation: at most 16, on every
# device. Beyond torch's own limit, 8, passes would run uncompiled.
_VERSIONS = 128


def compile_layers(
    base: nn.Module, on: bool, backend: str | Callable[..., Any] = "inductor"
) -> None:
    """Switch ``torch.compile`` of each layer on or off.

    Shapes are dynamic, so stacks of all sizes and all layers share the compiled code, but for the
    versions above.
    """
    options: dict[str, Any] = {"dynamic": True, "backend": backend}
    if "recompile_limit" in inspect.signature(torch.compile).parameters:
        options["recompile_limit"] = _VERSIONS
    for layer in _layers(base):
        if not on:
            layer._compiled_call_impl = None
        elif layer._compiled_call_impl is None:
            plain = layer._call_impl
            call = functools.partial(_call, torch.compile(plain, **options), plain, _stacked(layer))
            layer._compiled_call_impl = call


def _stacked(layer: nn.Module) -> list[StackedLora]:
    return [module for module in layer.modules() if isinstance(module, StackedLora)]


def _call(
    compiled: Callable[..., Any],
    plain: Callable[..., Any],
    stacked: Sequence[StackedLora],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Call a compiled layer; records of two tokens would need versions of their own, for nothing.

    Sizes of the adapters never change, and torch must not take one for a number of rows that is
    equal by chance.
    """
    for hidden in (value for value in args[:1] if isinstance(value, Tensor) and value.dim() == 3):
        if hidden.shape[1] == 1:
            return plain(*args, **kwargs)
    for leaf in (leaf for module in stacked for leaf in (module.a, module.b) if leaf is not None):
        torch._dynamo.mark_static(leaf, [1, 2])
    return compiled(*args, **kwargs)


def _layers(base: nn.Module) -> list[GradientCheckpointingLayer]:
    return [layer for layer in base.modules() if isinstance(layer, GradientCheckpointingLayer)]
