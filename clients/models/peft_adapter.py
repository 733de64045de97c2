"""Inserts a LoRA adapter into a base model: peft chooses its layers, names and initial values.

Each layer that peft creates is then replaced by a stacked one (`userdp.clients.models.stacked_lora`
and `stacked_linear`), and each tensor of peft's state dictionary gets its place in one of these.
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

from userdp.clients.checkpoints import weights
from userdp.clients.models import participation, stacked_linear, stacked_lora
from userdp.sim.common.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Shape and initialisation of a LoRA adapter (Hu et al., arXiv 2106.09685).

    Attributes:
        r: rank.
        alpha: the product ``B A`` is scaled by ``alpha / r``.
        targets: names of the adapted layers, as peft's ``target_modules``.
        seed: of the initial values.
        freeze_a: train B alone (FFA-LoRA, Sun et al., arXiv 2403.12313).

    Raises:
        ConfigurationError: the rank is below 1 or alpha is not positive.
    """

    r: int = 8
    alpha: float = 16.0
    targets: str | Sequence[str] = "all-linear"
    seed: int = 0
    freeze_a: bool = False

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ConfigurationError(f"model.lora.r={self.r}: must be at least 1.")
        if not self.alpha > 0:
            raise ConfigurationError(f"model.lora.alpha={self.alpha}: must be positive.")


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter inserted into its base model; tensors have the names that peft gives them."""

    config: peft.LoraConfig
    trained: Mapping[str, Tensor]  # initial values, float32, in the order of the flat vector
    frozen: Mapping[str, Tensor]  # float32: every A where it is frozen, else none
    places: Sequence[stacked_lora.Place]  # one for each trained tensor, in the same order


def insert(
    base: nn.Module, settings: LoraSettings, task: str, drawn: Sequence[str] = ()
) -> Adapter:
    """Replace the layers of ``base`` that peft would adapt by stacked layers, in place.

    Args:
        task: peft's name of the task, CAUSAL_LM or SEQ_CLS; with SEQ_CLS all weights of the
            classification head are trained as well.
        drawn: names of tensors that the checkpoint lacks; their layers are trained whole too.

    Raises:
        ConfigurationError: the model has no such targets, or a target or a part of the head is not
            a linear layer.
    """
    config = peft.LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        target_modules=_targets(settings.targets),
        lora_dropout=0.0,
        task_type=task,
        modules_to_save=weights.trained_whole(drawn) or None,
    )
    config.target_modules = participation.targets(base, config)
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
    """The model that peft makes of ``base``; global random state is unchanged."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        torch.manual_seed(settings.seed)
        try:
            return peft.get_peft_model(base, config)
        except (TypeError, ValueError) as error:  # peft raises either for targets it cannot adapt
            reason = str(error).split(". ")[0]
            raise ConfigurationError(f"model.lora.targets={settings.targets}: {reason}.") from None


def _replace_layers(adapted: nn.Module) -> dict[str, stacked_lora.StackedLora]:
    """Replace each of peft's LoRA layers by a stacked one; returns these by module path."""
    layers = {}
    for path, layer in list(adapted.named_modules()):
        if not isinstance(layer, LoraLayer):
            continue
        if layer.lora_embedding_A:
            raise ConfigurationError(
                f"model.lora.targets: {path} is an embedding, not a linear layer."
            )
        layers[path] = stacked_lora.StackedLora(layer.get_base_layer(), layer.scaling["default"])
        _set(adapted, path, layers[path])
    return layers


def _replace_heads(adapted: nn.Module) -> dict[str, stacked_linear.StackedLinear]:
    """Replace the linear layers that peft trains whole by stacked ones; returns these by path."""
    layers = {}
    for path, wrapper in list(adapted.named_modules()):
        if not isinstance(wrapper, ModulesToSaveWrapper):
            continue
        _set(adapted, path, wrapper.original_module)
        for inner_path, part in list(wrapper.original_module.named_modules(prefix=path)):
            if isinstance(part, nn.Linear):
                layers[inner_path] = stacked_linear.StackedLinear(part)
                _set(adapted, inner_path, layers[inner_path])
    return layers


def _set(adapted: nn.Module, path: str, module: nn.Module) -> None:
    """Put ``module`` at the path in place of the one that is there."""
    parent, _, name = path.rpartition(".")
    setattr(adapted.get_submodule(parent), name, module)


def _places(
    layers: Mapping[str, stacked_lora.StackedLora],
    heads: Mapping[str, stacked_linear.StackedLinear],
    names: Iterable[str],
) -> dict[str, stacked_lora.Place]:
    """The stacked module and its attribute for each name of peft's state dictionary."""
    places = {}
    for name in names:
        path, lora_, factor = name.partition(".lora_")
        if lora_:
            attribute = {"A.weight": "a", "B.weight": "b"}[factor]
            places[name] = stacked_lora.Place(layers[path], attribute)
            continue
        path, _, attribute = name.rpartition(".")
        if path not in heads:
            raise ConfigurationError(
                f"model.path: {path} is trained whole, but is not a linear layer."
            )
        places[name] = stacked_lora.Place(heads[path], attribute)
    return places
