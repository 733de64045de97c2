"""The base model and its stacked adapters: what a lane computes its loss with.

Any causal language model that transformers loads and peft can adapt. peft decides which layers are
adapted, how they are named and initialised; the engine then puts a `StackedLora` in the place of
each of its layers.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from clients import lora, loss
from clients.packing import Stack
from sim.errors import ConfigurationError
from sim.wire import Layout


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Shape of the adapter (Hu et al., arXiv 2106.09685)."""

    r: int = 8
    alpha: float = 16.0
    targets: str | Sequence[str] = "all-linear"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ConfigurationError(f"model.lora.r={self.r}: must be at least 1.")
        if not self.alpha > 0:
            raise ConfigurationError(f"model.lora.alpha={self.alpha}: must be positive.")


class LanguageModel:
    """A frozen base model whose adapted layers take one adapter per lane.

    Attributes:
        layout: names (as peft saves them) and shapes of the adapter's D parameters.
        initial: (D,) float32, the adapter before training: A random, B zero.
    """

    def __init__(self, base: Any, settings: LoraSettings) -> None:
        base.requires_grad_(False).eval()
        self.config = base.config
        self.peft_config = peft.LoraConfig(
            r=settings.r,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]
            target_modules=_targets(settings.targets),
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
        )
        adapted = _adapt(base, self.peft_config, settings)
        state = peft.get_peft_model_state_dict(adapted)
        self.layers = _replace_layers(adapted)
        self.layout = Layout.of({name: tuple(tensor.shape) for name, tensor in state.items()})
        self.initial = torch.cat([tensor.float().flatten() for tensor in state.values()]).cpu()
        self.module = base
        self.device = next(base.parameters()).device
        self._head = _plain_head(base)
        _check_causal(base)

    @property
    def vocabulary(self) -> int:
        return self.module.get_input_embeddings().num_embeddings

    def base_digest(self) -> str:
        """Hash of everything the base model's losses depend on; the adapter is no part of it."""
        digest = hashlib.blake2b(self.config.to_json_string().encode(), digest_size=16)
        for name, tensor in self.module.state_dict().items():
            content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(content.numpy())
        return digest.hexdigest()

    def leaves(self, adapters: Tensor, lanes: int) -> list[Tensor]:
        """Stacked leaves (lanes, r, in) and (lanes, out, r) of adapters.

        Args:
            adapters: (D,), shared by all lanes, or (lanes, D).
        """
        rows = adapters.expand(lanes, -1)
        return [
            rows[:, part].reshape(lanes, *shape).detach().requires_grad_()
            for part, shape in self.layout.parts()
        ]

    def gradients(self, adapters: Tensor, stack: Stack) -> tuple[Tensor, Tensor]:
        """Per-lane gradient of a stack's weighted loss.

        Args:
            adapters: (D,) or (lanes of the stack, D) float32 on the device.

        Returns:
            (lanes of the stack, D) float32, and the sum of the weighted losses (scalar).
        """
        leaves = self.leaves(adapters, len(stack.lanes))
        with self._adapted(leaves):
            total, _ = self._losses(stack)
            grads = torch.autograd.grad(total, leaves)
        return torch.cat([grad.flatten(1) for grad in grads], dim=1), total.detach()

    @torch.no_grad()
    def token_losses(self, adapter: Tensor | None, stack: Stack) -> Tensor:
        """(predicted tokens,) NLL in nats, row after row, under one adapter (D,).

        None switches the adapter off: the losses are those of the public base model.
        """
        if adapter is None:
            return self._losses(stack)[1]
        with self._adapted(self.leaves(adapter, 1)):
            return self._losses(stack)[1]

    @contextlib.contextmanager
    def _adapted(self, leaves: list[Tensor]):
        lora.attach(self.layers, leaves)
        try:
            yield
        finally:
            lora.detach(self.layers)

    def _losses(self, stack: Stack) -> tuple[Tensor, Tensor]:
        tokens = torch.from_numpy(stack.tokens).to(self.device, non_blocking=True)
        positions = torch.from_numpy(stack.positions()).to(self.device, non_blocking=True)
        weights = torch.from_numpy(stack.token_weights()).to(self.device, non_blocking=True)
        inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].flatten()[positions]
        if self._head is None:
            logits = self.module(input_ids=inputs, use_cache=False).logits.flatten(0, 1)
            chosen = logits.index_select(0, positions).float()
            nll = nn.functional.cross_entropy(chosen, targets, reduction="none")
            return weights @ nll, nll
        hidden = self.module.base_model(input_ids=inputs, use_cache=False).last_hidden_state
        chosen = hidden.flatten(0, 1).index_select(0, positions)
        return loss.head_loss(chosen, self._head.weight, self._head.bias, targets, weights)


def load(path: str | Path, *, revision: str | None, dtype: torch.dtype, device: torch.device):
    """Base model and tokenizer from a folder or from the Hugging Face hub.

    Raises:
        ConfigurationError: if there is no such model, or it is not a causal language model.
    """
    try:
        base: Any = transformers.AutoModelForCausalLM.from_pretrained(
            path, revision=revision, dtype=dtype
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, revision=revision)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigurationError(f"model.path={path}: no causal language model: {reason}") from None
    return base.to(device), tokenizer


def _targets(targets: str | Sequence[str]) -> str | list[str]:
    return targets if isinstance(targets, str) else list(targets)


def _adapt(base: nn.Module, config: peft.LoraConfig, settings: LoraSettings) -> nn.Module:
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        torch.manual_seed(settings.seed)
        try:
            return peft.get_peft_model(base, config)  # type: ignore[arg-type]
        except ValueError as error:
            reason = str(error).split(". ")[0]
            raise ConfigurationError(f"model.lora.targets={settings.targets}: {reason}.") from None


def _replace_layers(adapted: nn.Module) -> list[lora.StackedLora]:
    """Put a stacked layer in the place of each of peft's, in the order of the state dictionary."""
    layers = []
    for name, layer in list(adapted.named_modules()):
        if not isinstance(layer, LoraLayer):
            continue
        if layer.lora_embedding_A:
            raise ConfigurationError(
                f"model.lora.targets: {name} is an embedding, not a linear layer."
            )
        parent = adapted.get_submodule(name.rpartition(".")[0])
        stacked = lora.StackedLora(layer.get_base_layer(), layer.scaling["default"])
        setattr(parent, name.rpartition(".")[2], stacked)
        layers.append(stacked)
    return layers


@torch.no_grad()
def _plain_head(base: Any) -> nn.Linear | None:
    """The output head, if the logits are its product with the last hidden states, to the last bit.

    Some families scale or softly cap their logits (which near zero looks like the product); they,
    and adapted heads, take the path over whole logits.
    """
    head = base.get_output_embeddings()
    if type(head) is not nn.Linear:
        return None
    probe = _probe(base)
    hidden = base.base_model(input_ids=probe, use_cache=False).last_hidden_state
    if hidden.shape[-1] != head.in_features:
        return None
    return (
        head if torch.equal(head(hidden), base(input_ids=probe, use_cache=False).logits) else None
    )


@torch.no_grad()
def _check_causal(base: Any) -> None:
    """Padding follows a row's tokens and has no mask, so no position may see a later one."""
    probe = _probe(base)
    changed = probe.clone()
    changed[:, 4:] = 0
    first, second = (
        base(input_ids=x, use_cache=False).logits[:, :4].float() for x in (probe, changed)
    )
    if not torch.allclose(first, second, rtol=1e-2, atol=1e-2):
        raise ConfigurationError(
            "model.path: a position of this model sees later ones: not a causal model."
        )


def _probe(base: Any) -> Tensor:
    vocabulary = base.get_input_embeddings().num_embeddings
    return (torch.arange(1, 9, device=next(base.parameters()).device) % vocabulary)[None]
