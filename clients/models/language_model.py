"""The base model and its stacked adapters: what a lane computes its loss with.

Any causal language model that transformers loads and peft can adapt (`userdp.clients.models.peft_adapter`); with
classes, also an encoder, and the head is part of the adapter (`userdp.clients.models.classifier`).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from userdp.clients.batching import device_batches
from userdp.clients.batching.device_batches import Batch
from userdp.clients.batching.packing import Stack
from userdp.clients.models import acceleration, stacked_lora
from userdp.clients.models import peft_adapter as adapter
from userdp.clients.models.classifier import Classification
from userdp.clients.models.next_token import NextToken
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.protocol.messages import Layout


class LanguageModel:
    """A frozen base model whose adapted layers take one adapter per lane.

    Attributes:
        layout: names (as peft saves them) and shapes of the adapter's D trained parameters.
        initial: (D,) float32, the adapter before training: A random, B zero.
        frozen: the adapter's other tensors, by name: every A where it is frozen, else none.
        classes: how many a text may have; None: next tokens are predicted.
    """

    def __init__(self, base: Any, settings: LoraSettings, classes: int | None = None) -> None:
        acceleration.fuse_activations(base.requires_grad_(False).eval())
        self.config = base.config
        self.classes = classes
        built = adapter.build_in(base, settings, "CAUSAL_LM" if classes is None else "SEQ_CLS")
        self.peft_config, self.frozen = built.config, built.frozen
        self.layout = Layout.of({name: tuple(t.shape) for name, t in built.trained.items()})
        self.initial = torch.cat([tensor.flatten() for tensor in built.trained.values()]).cpu()
        self._places = built.places
        self.module = base
        self.device = next(base.parameters()).device
        self._task = NextToken(base) if classes is None else Classification(base)

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

    def load(self, stack: Stack) -> Batch:
        """The stack's tensors on the device."""
        return device_batches.load(stack, self.device, self._task.padding)

    def leaves(self, adapters: Tensor, lanes: int) -> list[Tensor]:
        """Stacked leaves (lanes, ...) of adapters, one for each tensor of the layout.

        Args:
            adapters: (D,), shared by all lanes and by their leaves' memory, or (lanes, D).
        """
        rows = adapters.expand(lanes, -1)
        return [
            rows[:, part].reshape(lanes, *shape).detach().requires_grad_()
            for part, shape in self.layout.parts()
        ]

    def gradients(self, adapters: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Per-lane gradient of a stack's weighted loss.

        Args:
            adapters: (D,) or (lanes of the stack, D) float32 on the device.

        Returns:
            (lanes of the stack, D) float32, and the sum of the weighted losses (scalar).
        """
        leaves = self.leaves(adapters, len(batch.lanes))
        with self._adapted(leaves):
            total, _ = self._task.losses(batch)
            grads = torch.autograd.grad(total, leaves)
        return self._flat(grads), total.detach()

    def _flat(self, grads: Sequence[Tensor]) -> Tensor:
        """(lanes, D) of the leaves' gradients, whichever way these lie in memory."""
        rows = torch.empty(len(grads[0]), self.layout.size, device=self.device)
        for grad, (part, _) in zip(grads, self.layout.parts(), strict=True):
            rows[:, part].view(grad.shape).copy_(grad)
        return rows

    @torch.no_grad()
    def token_losses(self, adapter: Tensor | None, batch: Batch) -> Tensor:
        """(predicted tokens,) NLL in nats, row after row, under one adapter (D,).

        None switches the adapter off: the losses are those of the public base model.
        """
        if adapter is None:
            return self._task.losses(batch)[1]
        with self._adapted(self.leaves(adapter, 1)):
            return self._task.losses(batch)[1]

    @torch.no_grad()
    def class_logits(self, adapter: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """(rows, classes) float32 logits under one adapter (D,), and (rows,) the true classes.

        Raises:
            TypeError: the model predicts next tokens.
        """
        if not isinstance(self._task, Classification):
            raise TypeError("A model of next tokens has no class logits.")
        with self._adapted(self.leaves(adapter, 1)):
            return self._task.logits(batch), batch.targets

    @contextlib.contextmanager
    def _adapted(self, leaves: list[Tensor]):
        stacked_lora.attach(self._places, leaves)
        try:
            yield
        finally:
            stacked_lora.detach(self._places)


def load(
    path: str | Path,
    *,
    revision: str | None,
    dtype: torch.dtype,
    device: torch.device,
    classes: int | None = None,
    seed: int = 0,
):
    """Base model, its tokenizer, and whether it has weights that the checkpoint lacks.

    From a folder or from the Hugging Face hub. With ``classes`` the model has a head for them;
    ``seed`` draws the weights that the checkpoint lacks, mostly those of that head.

    Raises:
        ConfigurationError: if there is no such model, or it is of another kind.
    """
    kind: Any = transformers.AutoModelForCausalLM
    options: dict[str, int] = {}
    if classes is not None:
        kind, options = transformers.AutoModelForSequenceClassification, {"num_labels": classes}
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            base: Any
            base, told = kind.from_pretrained(
                path, revision=revision, dtype=dtype, output_loading_info=True, **options
            )
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, revision=revision)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        wanted = "causal language model" if classes is None else "model that classifies texts"
        raise ConfigurationError(f"model.path={path}: no {wanted}: {reason}") from None
    return base.to(device), tokenizer, bool(told["missing_keys"] or told["mismatched_keys"])


def longest_text(base: Any) -> int | None:
    """How many tokens the base model can read at once; None: no number is given."""
    for name, table in base.named_modules():  # RoBERTa numbers its positions from padding_idx + 1
        if name.endswith("position_embeddings") and getattr(table, "padding_idx", None) is not None:
            return table.num_embeddings - table.padding_idx - 1
    return getattr(base.config, "max_position_embeddings", None)
