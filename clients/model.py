"""The base model and its stacked adapters: what a lane computes its loss with.

Any causal language model that transformers loads and peft can adapt (`clients.adapter`).
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from clients import adapter, lora, loss
from clients.adapter import LoraSettings
from clients.packing import Stack
from sim.errors import ConfigurationError
from sim.wire import Layout


class LanguageModel:
    """A frozen base model whose adapted layers take one adapter per lane.

    Attributes:
        layout: names (as peft saves them) and shapes of the adapter's D trained parameters.
        initial: (D,) float32, the adapter before training: A random, B zero.
        frozen: the adapter's other tensors, by name: every A where it is frozen, else none.
    """

    def __init__(self, base: Any, settings: LoraSettings) -> None:
        base.requires_grad_(False).eval()
        self.config = base.config
        built = adapter.build_in(base, settings)
        self.peft_config, self.frozen = built.config, built.frozen
        self.layout = Layout.of({name: tuple(t.shape) for name, t in built.trained.items()})
        self.initial = torch.cat([tensor.flatten() for tensor in built.trained.values()]).cpu()
        self._places = built.places
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
        """Stacked leaves (lanes, ...) of adapters, one for each tensor of the layout.

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
        lora.attach(self._places, leaves)
        try:
            yield
        finally:
            lora.detach(self._places)

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
