"""What may be done to a base model for speed or memory: results change by float tolerance only.

What a base model is (`LanguageModel.base_digest`) and what is saved of it stay the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.utils import checkpoint as checkpointing
from transformers import activations
from transformers.modeling_layers import GradientCheckpointingLayer

from userdp.sim.common.errors import ConfigurationError

# Both are 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) (Hendrycks & Gimpel, arXiv 1606.08415).
_TANH_GELU = (activations.NewGELUActivation, activations.FastGELUActivation)


def fuse_activations(base: nn.Module) -> None:
    """Put torch's one operation in the place of what transformers writes as several."""
    for module in list(base.modules()):
        for name, child in module.named_children():
            if type(child) in _TANH_GELU:
                setattr(module, name, nn.GELU(approximate="tanh"))


def checkpoint(base: nn.Module, on: bool) -> None:
    """Keep no activations within a layer, and compute them again in the backward pass.

    Raises:
        ConfigurationError: no layers are known of this model.
    """
    layers = _layers(base)
    if on and not layers:
        raise ConfigurationError("engine.checkpointing=true: this model cannot be checkpointed.")
    for layer in layers:
        vars(layer).pop("forward", None)
        if on:
            vars(layer)["forward"] = functools.partial(_again, layer.forward)


def _again(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    # No dropout, so no random state to keep.
    return checkpointing.checkpoint(
        forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs
    )


def compile_layers(base: nn.Module, on: bool, backend: str = "inductor") -> None:
    """`torch.compile` each layer, for stacks of any shape; all layers share what was compiled."""
    for layer in _layers(base):
        if not on:
            layer._compiled_call_impl = None
        elif layer._compiled_call_impl is None:
            layer.compile(dynamic=True, backend=backend)


def _layers(base: nn.Module) -> list[GradientCheckpointingLayer]:
    return [layer for layer in base.modules() if isinstance(layer, GradientCheckpointingLayer)]
