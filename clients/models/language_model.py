"""A frozen base model with stacked adapters: per-lane gradients, token losses and class logits.

The base is any causal language model that transformers loads and peft can adapt
(`userdp.clients.models.peft_adapter`). For classification it may also be an encoder; the adapter
then includes the classification head (`userdp.clients.models.classifier`).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from userdp.clients.batching import device_batches, fixed_shapes, packed_rows, packing
from userdp.clients.batching.device_batches import Batch
from userdp.clients.batching.fixed_shapes import FixedShapes
from userdp.clients.batching.packed_rows import PackedStack
from userdp.clients.batching.packing import Stack, Unit
from userdp.clients.kernels import packed_attention
from userdp.clients.models import acceleration, peft_adapter, run_ahead, stacked_lora
from userdp.clients.models.chunked_loss import TokenScores
from userdp.clients.models.classifier import Classification
from userdp.clients.models.next_token import NextToken
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.protocol.layout import Layout


class LanguageModel:
    """A frozen base model whose adapted layers take one adapter per lane.

    Args:
        base: a model of transformers; its layers are replaced in place.
        classes: number of classes of a classification; None predicts next tokens.
        drawn: names of tensors that the checkpoint lacks; their layers are trained whole.

    Attributes:
        layout: names (as peft saves them) and shapes of the adapter's D trained parameters.
        initial: (D,) float32 on the CPU, the adapter before training: A random, B zero.
        frozen: the adapter's other tensors, by name: every A where it is frozen, else none.
        peft_config: the adapter's configuration, as peft saves it.
        config: the base model's configuration.
        module: the base model with its stacked layers.
        classes: as above.
        device: of the base model's parameters.
        packed: whether `stacks` lays several records into a row; see `pack`.
        graphs: whether layers are replayed as CUDA graphs; see `compile`.

    Raises:
        ConfigurationError: the adapter does not fit the model, or the model not the task.
    """

    def __init__(
        self,
        base: Any,
        settings: LoraSettings,
        classes: int | None = None,
        drawn: Sequence[str] = (),
    ) -> None:
        acceleration.fuse_activations(base.requires_grad_(False).eval())
        run_ahead.let(base)
        self.config = base.config
        self.classes = classes
        task = "CAUSAL_LM" if classes is None else "SEQ_CLS"
        with refused("this model cannot be adapted"):
            adapter = peft_adapter.insert(base, settings, task, drawn)
        self.peft_config, self.frozen = adapter.config, adapter.frozen
        self.layout = Layout.of({name: tuple(t.shape) for name, t in adapter.trained.items()})
        self.initial = torch.cat([tensor.flatten() for tensor in adapter.trained.values()]).cpu()
        self._places = adapter.places
        self.module = base
        self.device = next(base.parameters()).device
        self.packed = False
        self.graphs = False
        self._held = acceleration.StillAdapters()  # of a pass, where `graphs`
        with refused("this model does not read texts as its task does"):
            self._task = NextToken(base) if classes is None else Classification(base)

    @property
    def vocabulary(self) -> int:
        """Number of token ids that the model can read and, where it predicts tokens, predict."""
        read, head = vocabulary(self.module), self.module.get_output_embeddings()
        return read if head is None else min(read, len(head.weight))

    @property
    def next_token(self) -> NextToken | None:
        """The task, where it is to predict the next token."""
        return self._task if isinstance(self._task, NextToken) else None

    def base_digest(self) -> str:
        """Hash of all that the base model's losses depend on; the adapter does not change it."""
        return self._digest(self.config.to_json_string())

    def weights_digest(self) -> str:
        """Hash of the base model's tensors alone, as they were loaded: names, types, contents."""
        return self._digest("")

    def _digest(self, start: str) -> str:
        digest = hashlib.blake2b(start.encode(), digest_size=16)
        for name, tensor in self.module.state_dict().items():
            content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(content.numpy())
        return digest.hexdigest()

    @property
    def dtype(self) -> str:
        """Precision of the base model's weights, for example "float32"."""
        return str(next(self.module.parameters()).dtype).removeprefix("torch.")

    @property
    def shapes(self) -> FixedShapes | None:
        """Shapes of the stacks that this model computes gradients of; None where all will do.

        Float32 rounds so little that shapes play no part. Where graphs are replayed, each shape has
        graphs of its own, so they are few in every precision.
        """
        if self.module.dtype == torch.float32 and not self.graphs:
            return None
        return FixedShapes(
            longest=longest_text(self.module),
            positions=fixed_shapes.POSITIONS[self.device.type],
            every_position=self.classes is None,
        )

    def compile(self, how: acceleration.How) -> None:
        """Compile the layers, with dynamic shapes or as CUDA graphs, or switch that off.

        Raises:
            ConfigurationError: graphs, and the model is not on a GPU.
        """
        if how == acceleration.GRAPHS and self.device.type != "cuda":
            raise ConfigurationError(
                "engine.compile=graphs: only a GPU replays CUDA graphs; take engine.compile=true."
            )
        self.graphs = how == acceleration.GRAPHS
        acceleration.compile_layers(self.module, how)

    def pack(self, on: bool) -> None:
        """Lay several records into a row, or one again.

        Raises:
            ConfigurationError: ``on``, for a classification, or where graphs are replayed.
        """
        if on and self.graphs:
            raise ConfigurationError(
                "engine.packed=true engine.compile=graphs: packed rows have a shape for each set "
                "of lengths; leave out one of the two."
            )
        if on and self.classes is not None:
            raise ConfigurationError("engine.packed=true: a class has a row for each text.")
        self.packed = on

    def stacks(
        self, units: Sequence[Unit], max_tokens: int, *, one_adapter: bool = True
    ) -> Iterator[Stack | PackedStack]:
        """The inputs of forward passes over the records of some units.

        Args:
            max_tokens: positions of a stack, with padding.
            one_adapter: whether all lanes have the same adapter in all steps. Where they have not
                and shapes are fixed, each record of a packed row is a lane.
        """
        if not self.packed:
            return packing.stacks(units, max_tokens, self.shapes)
        if self.shapes is None:
            return packed_rows.stacks(units, max_tokens)
        size = min(max_tokens, self.shapes.positions)
        return packed_rows.stacks(units, size, fixed=True, one_adapter=one_adapter)

    def halves(self, stack: Stack | PackedStack) -> Sequence[Stack | PackedStack]:
        """The stack in smaller ones, after memory ran out; it has to be `Batch.divisible`."""
        if isinstance(stack, PackedStack):
            return packed_rows.halves(stack)
        return packing.halves(stack, self.shapes)

    def load(self, stack: Stack | PackedStack) -> Batch:
        """The stack's tensors on the device."""
        if isinstance(stack, PackedStack):
            return device_batches.load_packed(stack, self.device)
        return device_batches.load(stack, self.device, self._task.padding)

    def leaves(self, adapters: Tensor, lanes: int) -> list[Tensor]:
        """Stacked leaves of adapters, one (lanes, ...) float32 for each tensor of the layout.

        Args:
            adapters: (D,), whose memory all lanes then share, or (lanes, D).
        """
        still = self.graphs and torch.is_grad_enabled()
        rows = (self._held.put(adapters) if still else adapters).expand(lanes, -1)
        return [
            rows[:, part].reshape(lanes, *shape).detach().requires_grad_()
            for part, shape in self.layout.parts()
        ]

    def gradients(
        self, adapters: Tensor, batch: Batch, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Per-lane gradient of a stack's weighted loss.

        Args:
            adapters: (D,) or (lanes of the stack, D) float32 on the device.
            rows: (lanes of the stack, D) float32 to be overwritten; None: a new tensor.

        Returns:
            ``rows``, and the sum of the weighted losses (scalar).

        Raises:
            RuntimeError: some leaf has no gradient.
        """
        if self.graphs:
            acceleration.begin_pass()
        leaves = self.leaves(adapters, len(batch.lanes))
        if rows is None:
            rows = torch.empty(len(batch.lanes), self.layout.size, device=self.device)
        parts = [rows[:, part].view(-1, *shape) for part, shape in self.layout.parts()]
        with self._adapted(leaves, batch.starts, parts), self._row(batch.stack):
            total, _ = self._task.losses(batch)
            grads = torch.autograd.grad(total, leaves)
        _gather(grads, parts)
        return rows, total.detach()

    @torch.no_grad()
    def token_losses(self, adapter: Tensor | None, batch: Batch) -> Tensor:
        """(predicted tokens,) NLL in nats, row after row.

        Args:
            adapter: (D,) float32 on the device; None computes the losses of the base model alone.
        """
        leaves = [] if adapter is None else self.leaves(adapter, 1)
        with self._adapted(leaves), self._row(batch.stack):
            return self._task.losses(batch)[1]

    @torch.no_grad()
    def token_scores(self, adapter: Tensor, batch: Batch) -> TokenScores:
        """Losses and hits of the predicted tokens, row after row.

        Args:
            adapter: (D,) float32 on the device.

        Raises:
            TypeError: the model classifies texts.
        """
        if not isinstance(self._task, NextToken):
            raise TypeError("A classification predicts no tokens.")
        with self._adapted(self.leaves(adapter, 1)), self._row(batch.stack):
            return self._task.scores(batch)

    @torch.no_grad()
    def class_logits(self, adapter: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits of each row, and its true class.

        Args:
            adapter: (D,) float32 on the device.

        Returns:
            (rows, classes) float32, and (rows,) int64.

        Raises:
            TypeError: the model predicts next tokens.
        """
        if not isinstance(self._task, Classification):
            raise TypeError("A next-token model has no class logits.")
        with self._adapted(self.leaves(adapter, 1)):
            return self._task.logits(batch), batch.targets

    def _row(self, stack: Stack | PackedStack) -> contextlib.AbstractContextManager[None]:
        if isinstance(stack, PackedStack):
            return packed_attention.records(self.config, stack.lengths)
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def _adapted(
        self,
        leaves: Sequence[Tensor],
        starts: Tensor | None = None,
        destinations: Sequence[Tensor] = (),
    ) -> Iterator[None]:
        """Attach leaves (lanes, ...) to their layers while the context is open; none is no adapter.

        Args:
            starts: of packed rows.
            destinations: of the leaves' gradients.
        """
        if leaves:
            stacked_lora.attach(self._places, leaves, starts, destinations)
        try:
            yield
        finally:
            stacked_lora.detach(self._places)


def _gather(grads: Sequence[Tensor], parts: Sequence[Tensor]) -> None:
    """Copy the leaves' gradients (lanes, ...), whatever their strides, but those in their parts."""
    for grad, part in zip(grads, parts, strict=True):
        if grad is not part:
            part.copy_(grad)


@contextlib.contextmanager
def refused(what: str) -> Iterator[None]:
    """Turn an error of a model's own code into a refusal that names the model's path.

    Raises:
        ConfigurationError: something was raised that is neither this error nor lack of memory.
    """
    try:
        yield
    except (ConfigurationError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # code of a model that does not fit raises any type
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise ConfigurationError(f"model.path: {what}: {type(error).__name__}: {reason}") from None


def vocabulary(base: Any) -> int:
    """Number of token ids that the base model can read."""
    count: int = base.get_input_embeddings().num_embeddings
    return count


def longest_text(base: Any) -> int | None:
    """The largest number of tokens that the base model can read; None if it states no limit."""
    for name, table in base.named_modules():  # RoBERTa numbers its positions from padding_idx + 1
        if name.endswith("position_embeddings") and getattr(table, "padding_idx", None) is not None:
            positions: int = table.num_embeddings - table.padding_idx - 1
            return positions
    return getattr(base.config, "max_position_embeddings", None)
