"""Fused activations, activation checkpointing and compilation of a base model's layers.

Each changes speed or memory; results change by float rounding only. The base model's digest
(`LanguageModel.base_digest`) and the files saved of it stay the same.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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


# Versions of a layer's code that torch may keep, where it can be told. With dynamic shapes it
# compiles one for each of: one lane, lanes that share an adapter, lanes with their own; one row a
# lane or several; the first layer, whose input takes no gradient, and the others; and for
# evaluation: at most 16, on every device. With graphs it compiles at most four for each padded
# length (`fixed_shapes`), and for each half of a stack for which memory ran out. Beyond torch's own
# limit, 8, passes would run uncompiled.
_VERSIONS = 128
GRAPHS: Literal["graphs"] = "graphs"
How = bool | Literal["graphs"]


def compile_layers(
    base: nn.Module, how: How, backend: str | Callable[..., Any] = "inductor"
) -> None:
    """Switch ``torch.compile`` of each layer on or off.

    With True shapes are dynamic, so stacks of all sizes and all layers share the compiled code, but
    for the versions above.

    With `GRAPHS` every shape has code of its own, which torch records as CUDA graphs and replays:
    one launch a layer and direction. Evaluation runs uncompiled, since its stacks have shapes of
    any kind. Torch's graphs want few shapes and leaves that stay where they are in memory, which
    `LanguageModel.compile` sees to; a pass begins with `begin_pass`. This has not run on a GPU:
    that shapes and addresses are few is tested, that torch records and replays is not.
    """
    options: dict[str, Any] = {"dynamic": how != GRAPHS, "backend": backend}
    if how == GRAPHS and backend == "inductor":
        options["mode"] = "reduce-overhead"
    if "recompile_limit" in inspect.signature(torch.compile).parameters:
        options["recompile_limit"] = _VERSIONS
    for layer in _layers(base):
        present = layer._compiled_call_impl
        if not how:
            layer._compiled_call_impl = None
        elif not isinstance(present, _Compiled) or present.how != how:
            plain = layer._call_impl
            compiled = torch.compile(plain, **options)
            layer._compiled_call_impl = _Compiled(how, compiled, plain, _stacked(layer))


class StillAdapters:
    """Keeps the adapters of all passes, (D,) or (lanes, D), at one place in memory of each kind.

    A CUDA graph reads its weights where they were when it was recorded, and a leaf counts as a
    weight; torch would record every layer anew for each stack.
    """

    def __init__(self) -> None:
        self._held: dict[int, Tensor] = {}

    def put(self, adapters: Tensor) -> Tensor:
        """The same adapters (D,) or (lanes, D), where those of the last such pass were."""
        held = self._held.get(adapters.dim())
        if held is None or held.device != adapters.device or len(held) < len(adapters):
            held = self._held[adapters.dim()] = torch.empty_like(adapters)
        return held[: len(adapters)].copy_(adapters)


def begin_pass() -> None:
    """Tell torch's CUDA graphs that the results of the last pass have been read."""
    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]


def _stacked(layer: nn.Module) -> list[StackedLora]:
    return [module for module in layer.modules() if isinstance(module, StackedLora)]


@dataclass(frozen=True)
class _Compiled:
    """A compiled layer; records of two tokens would need versions of their own, for nothing.

    Sizes of the adapters never change, and torch must not take one for a number of rows that is
    equal by chance.
    """

    how: How
    compiled: Callable[..., Any]
    plain: Callable[..., Any]
    stacked: Sequence[StackedLora]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.how == GRAPHS:
            compute = self.compiled if torch.is_grad_enabled() else self.plain
            return compute(*args, **kwargs)
        for hidden in (one for one in args[:1] if isinstance(one, Tensor) and one.dim() == 3):
            if hidden.shape[1] == 1:
                return self.plain(*args, **kwargs)
        leaves = (leaf for module in self.stacked for leaf in (module.a, module.b))
        for leaf in (leaf for leaf in leaves if leaf is not None):
            torch._dynamo.mark_static(leaf, [1, 2])
        return self.compiled(*args, **kwargs)


def _layers(base: nn.Module) -> list[GradientCheckpointingLayer]:
    return [layer for layer in base.modules() if isinstance(layer, GradientCheckpointingLayer)]
