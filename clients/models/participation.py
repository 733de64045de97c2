"""Finds the linear layers of a base model that an adapter with one part per lane can train.

A stacked layer cuts its input into lanes along the first dimension
(`userdp.clients.models.stacked_lora`). One forward pass of invented texts, in the way of the task,
shows which layers can be cut so:

- A layer takes part if its output is in the graph of the model's output. The vision tower of a
  multimodal model and the cross-attention of a decoder without its encoder do not, nor does a
  layer whose weight other code reads without calling it.
- Its input has rows first if its first dimension counts the rows, or all positions of all rows. A
  table of relative positions has no rows; where time comes first, lanes would get parts of every
  text; an expert of a mixture gets the tokens that were routed to it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import peft
import torch
from peft.tuners import tuners_utils
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from userdp.clients.checkpoints import weights
from userdp.sim.common.errors import ConfigurationError

_LOG = logging.getLogger("userdp")

ALL_LINEAR = "all-linear"
# Of the invented texts: two numbers that no model has as a size of its own, as a rule.
_ROWS, _POSITIONS = 5, 7

_UNUSED = "the texts of this task do not reach it"
_NO_ROWS = "its input has no rows of texts"
_NOT_LINEAR = "it does not give what a linear layer gives"
_BY_PEFT = "peft does not adapt a layer of this name in this family"


def targets(base: Any, config: peft.LoraConfig) -> str | list[str]:
    """The value of peft's ``target_modules`` that adapts only layers which can be trained.

    Layers that cannot are left out, with a line in the log that names them.

    Args:
        base: the base model, before it is adapted.
        config: the adapter's configuration, with the targets of the settings.

    Returns:
        The targets of ``config`` as they are, where all their layers can be trained.

    Raises:
        ConfigurationError: none of the layers can be trained, or one whose inputs have no rows
            is named by the settings.
    """
    wanted = config.target_modules
    names = _matched(base, config)
    reasons = _reasons(base, names)
    reasons |= {n: _BY_PEFT for n in names if n not in reasons and not _adaptable(base, config, n)}
    kept = [name for name in names if name not in reasons]
    if names and not kept:
        raise ConfigurationError(
            f"model.lora.targets={wanted}: none of these layers can be adapted: {names[0]}: "
            f"{reasons[names[0]]}."
        )
    if wanted != ALL_LINEAR:
        _refuse_without_rows(wanted, reasons)
    if not (reasons or config.modules_to_save or _fused(base, config)) and not _resembles_head(
        base, config
    ):
        return wanted if isinstance(wanted, str) else list(wanted or ())
    for why in sorted(set(reasons.values())):
        left = [name for name in reasons if reasons[name] == why]
        _LOG.warning("Left out of the adapter, %s: %s", why, _brief(left))
    return kept


def _refuse_without_rows(wanted: Any, reasons: Mapping[str, str]) -> None:
    for name, why in reasons.items():
        if why == _NO_ROWS:
            raise ConfigurationError(f"model.lora.targets={wanted}: {name}: {why}; leave it out.")


def _brief(names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more + "."


def _matched(base: Any, config: peft.LoraConfig) -> list[str]:
    """Paths of the linear layers that the configuration's targets name."""
    linear = {
        path: layer for path, layer in base.named_modules() if isinstance(layer, nn.Linear | Conv1D)
    }
    if config.task_type == "SEQ_CLS":  # peft compares the ends: pre_classifier is trained whole
        linear = {path: layer for path, layer in linear.items() if not weights.in_head(path)}
    whole = set(config.modules_to_save or ())
    linear = {path: layer for path, layer in linear.items() if path not in whole}
    if config.target_modules == ALL_LINEAR:
        head = base.get_output_embeddings()
        return [path for path, layer in linear.items() if layer is not head]
    return [path for path in linear if tuners_utils.check_target_module_exists(config, path)]


def _resembles_head(base: Any, config: peft.LoraConfig) -> bool:
    """Whether peft would train a layer whole, by the end of its name, and also adapt it."""
    paths = [path for path, layer in base.named_modules() if isinstance(layer, nn.Linear)]
    return config.task_type == "SEQ_CLS" and any(
        weights.in_head(path) and not set(weights.HEADS) & set(path.split(".")) for path in paths
    )


def _adaptable(base: Any, config: peft.LoraConfig, name: str) -> bool:
    """Whether peft adapts this layer: it takes some names for parts of fused experts."""
    single = _like(config, [name])
    try:
        convert_peft_config_for_transformers(single, base, None)
        tuners_utils._check_lora_target_modules_mamba(single, base, name.rpartition(".")[2])
    except ValueError:
        return False
    return set(single.target_modules or ()) == {name}


def _fused(base: Any, config: peft.LoraConfig) -> bool:
    """Whether peft would turn these targets into parameters of fused experts."""
    copied = _like(config, config.target_modules)
    try:
        convert_peft_config_for_transformers(copied, base, None)
    except ValueError:
        return True
    return bool(copied.target_parameters)


def _like(config: peft.LoraConfig, target_modules: Any) -> peft.LoraConfig:
    return peft.LoraConfig(r=config.r, target_modules=target_modules, task_type=config.task_type)


class _Watch:
    """Adds a zero to the output of every watched layer, and notes the shapes of their inputs."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        self.zeros: dict[str, Tensor] = {}
        self.unfit: dict[str, str] = {}  # why a layer cannot be cut into lanes
        self._hooks = [
            layer.register_forward_hook(self._hook(name)) for name, layer in layers.items()
        ]

    def _hook(self, name: str) -> Any:
        def hook(layer: Any, inputs: tuple[Any, ...], output: Any) -> Any:
            shape = inputs[0].shape if inputs and isinstance(inputs[0], Tensor) else ()
            if not isinstance(output, Tensor) or not _is_linear(layer, shape, output.shape):
                self.unfit[name] = _NOT_LINEAR
                return output
            if not _has_rows(shape):
                self.unfit[name] = _NO_ROWS
            zero = self.zeros.setdefault(name, output.new_zeros(()).requires_grad_())
            return output + zero

        return hook

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()


def _is_linear(layer: Any, given: Sequence[int], got: Sequence[int]) -> bool:
    """Whether the output's shape is that of a product with the layer's whole weight."""
    sizes = tuple(layer.weight.shape)
    inner, outer = sizes if isinstance(layer, Conv1D) else sizes[::-1]
    return len(given) > 1 and given[-1] == inner and tuple(got) == (*given[:-1], outer)


def _has_rows(shape: Sequence[int]) -> bool:
    """Whether the first dimension counts the rows, or, of two, all positions of all rows."""
    return shape[0] == _ROWS or (len(shape) == 2 and shape[0] == _ROWS * _POSITIONS)


def _reasons(base: Any, names: Sequence[str]) -> dict[str, str]:
    """Why a layer of these names cannot be adapted, for each that cannot."""
    watch = _Watch({name: base.get_submodule(name) for name in names})
    try:
        output = base(**_texts(base))
    finally:
        watch.close()
    graph: Sequence[Tensor | None]
    total, zeros = output.logits.float().sum(), list(watch.zeros.values())
    graph = [None] * len(zeros)
    if total.requires_grad:
        graph = torch.autograd.grad(total, zeros, allow_unused=True)
    used = {name for name, part in zip(watch.zeros, graph, strict=True) if part is not None}
    unused = {name: _UNUSED for name in names if name not in used}
    return unused | watch.unfit


def _texts(base: Any) -> dict[str, Any]:
    """Inputs of the base model: invented texts of equal length, without padding."""
    vocabulary = base.get_input_embeddings().num_embeddings
    tokens = torch.arange(_ROWS * _POSITIONS, device=base.device).view(_ROWS, _POSITIONS)
    tokens = (3 + tokens) % vocabulary
    mask = {"attention_mask": torch.ones_like(tokens)}
    decoder = base.get_output_embeddings() is not None or hasattr(base, "score")
    return {"input_ids": tokens, **({"use_cache": False} if decoder else mask)}
