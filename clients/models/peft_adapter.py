"""What peft decides of an adapter: which layers it has, how they are named and initialised.

Each of peft's layers then makes room for a stacked one, and every tensor gets a place in it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import peft
import torch
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from userdp.clients.models import stacked_linear, stacked_lora
from userdp.sim.common.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Shape of the adapter (Hu et al., arXiv 2106.09685)."""

    r: int = 8
    alpha: float = 16.0
    targets: str | Sequence[str] = "all-linear"
    seed: int = 0
    freeze_a: bool = False  # FFA-LoRA: B alone is trained (arXiv 2403.12313)

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ConfigurationError(f"model.lora.r={self.r}: must be at least 1.")
        if not self.alpha > 0:
            raise ConfigurationError(f"model.lora.alpha={self.alpha}: must be positive.")


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter built into its base model; tensors go by the names that peft saves them under."""

    config: peft.LoraConfig
    trained: Mapping[str, Tensor]  # initial values, float32, in the order of the flat vector
    frozen: Mapping[str, Tensor]  # every A where it is frozen, else none
    places: Sequence[stacked_lora.Place]  # of the trained tensors


def build_in(base: nn.Module, settings: LoraSettings, task: str) -> Adapter:
    """Put stacked layers into ``base`` where peft would adapt it.

    Args:
        task: as peft names it; under SEQ_CLS the head that classifies is trained whole.

    Raises:
        ConfigurationError: the model has no such targets, or they are no linear layers.
    """
    config = peft.LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        target_modules=_targets(settings.targets),
        lora_dropout=0.0,
        task_type=task,
    )
    adapted = _adapt(base, config, settings)
    state = {name: t.float() for name, t in peft.get_peft_model_state_dict(adapted).items()}
    places = _places(_replace_layers(adapted), _replace_heads(adapted), state)
    frozen = {n: t for n, t in state.items() if settings.freeze_a and places[n].attribute == "a"}
    for name, tensor in frozen.items():
        places[name].module.frozen_a = tensor
    trained = {name: tensor for name, tensor in state.items() if name not in frozen}
    return Adapter(
        config=config, trained=trained, frozen=frozen, places=[places[name] for name in trained]
    )


def _targets(targets: str | Sequence[str]) -> str | list[str]:
    return targets if isinstance(targets, str) else list(targets)


def _adapt(base: nn.Module, config: peft.LoraConfig, settings: LoraSettings) -> nn.Module:
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        torch.manual_seed(settings.seed)
        try:
            return peft.get_peft_model(base, config)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:  # peft tells of what it cannot adapt by either
            reason = str(error).split(". ")[0]
            raise ConfigurationError(f"model.lora.targets={settings.targets}: {reason}.") from None


def _replace_layers(adapted: nn.Module) -> dict[str, stacked_lora.StackedLora]:
    """Put a stacked layer in the place of each of peft's; returns them by their paths."""
    layers = {}
    for name, layer in list(adapted.named_modules()):
        if not isinstance(layer, LoraLayer):
            continue
        if layer.lora_embedding_A:
            raise ConfigurationError(
                f"model.lora.targets: {name} is an embedding, not a linear layer."
            )
        parent = adapted.get_submodule(name.rpartition(".")[0])
        stacked = stacked_lora.StackedLora(layer.get_base_layer(), layer.scaling["default"])
        setattr(parent, name.rpartition(".")[2], stacked)
        layers[name] = stacked
    return layers


def _replace_heads(adapted: nn.Module) -> dict[str, stacked_linear.StackedLinear]:
    """Put stacked linear layers in the places of those that peft trains whole, by their paths."""
    layers = {}
    for name, wrapper in list(adapted.named_modules()):
        if not isinstance(wrapper, ModulesToSaveWrapper):
            continue
        _set(adapted, name, wrapper.original_module)
        for inner, part in list(wrapper.original_module.named_modules(prefix=name)):
            if isinstance(part, nn.Linear):
                layers[inner] = stacked_linear.StackedLinear(part)
                _set(adapted, inner, layers[inner])
    return layers


def _set(adapted: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(adapted.get_submodule(parent), name, module)


def _places(
    layers: Mapping[str, stacked_lora.StackedLora],
    heads: Mapping[str, stacked_linear.StackedLinear],
    names: Iterable[str],
) -> dict[str, stacked_lora.Place]:
    """Where each tensor of peft's state dictionary goes."""
    places = {}
    for name in names:
        path, lora_, factor = name.partition(".lora_")
        if lora_:
            places[name] = stacked_lora.Place(
                layers[path], {"A.weight": "a", "B.weight": "b"}[factor]
            )
            continue
        path, _, attribute = name.rpartition(".")
        if path not in heads:
            raise ConfigurationError(f"model.path: {path} is trained whole, and no linear layer.")
        places[name] = stacked_lora.Place(heads[path], attribute)
    return places
