"""Tokens, base model and initial adapter of a benchmark, made from one line of JSON by every side.

Sides that get the same line hold the same numbers, whatever process they run in: tokens and adapter
are drawn by numpy, the base model by torch, from fixed seeds.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import peft
import torch
import transformers
from torch import Tensor

IGNORED = -100  # label of a position that the loss does not count


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The work of one side as plain values, so that it can be sent as JSON."""

    users: int
    records: int  # of each user
    length: int  # tokens of each record; with lengths, the most tokens of any
    lengths: list[list[int]] | None = None  # tokens of each record of each user, if they differ
    family: str = "gpt2"  # or llama
    layers: int = 4
    width: int = 128
    heads: int = 4
    kv_heads: int | None = None  # heads of keys and values of a Llama; None: as many as heads
    mlp: int | None = None  # width of the hidden layer of an MLP; None: 4 * width
    vocabulary: int = 4096
    rank: int = 8
    dtype: str = "float32"  # of the base model; adapters are float32
    quantize: str | None = None  # how the linear layers of the base model are; None: in dtype
    device: str = "cpu"
    max_tokens: int | None = None  # of our engine, as the next three; None: its own choice
    max_lanes: int | None = None
    compile: bool | Literal["graphs"] = False
    checkpointing: bool = False
    packed: bool = False
    batch: int = 32  # records in a batch, for the sides that have one
    autocast: bool = False  # plain training under torch.autocast, for a bfloat16 base model
    rounds: int = 16  # upper bound of the rounds that will be done
    clip_norm: float = 1.0
    noise_multiplier: float = 1.0
    learning_rate: float = 1e-3  # of Adam, at the server or in plain training
    seed: int = 0

    @property
    def hidden(self) -> int:
        """Width of the hidden layer of an MLP."""
        return self.mlp or 4 * self.width

    @property
    def kv_width(self) -> int:
        """Width of keys, and of values."""
        return self.width * (self.kv_heads or self.heads) // self.heads


@dataclass(frozen=True)
class Work:
    """The users of a spec with their tokens, and the model that is trained on them."""

    spec: Spec

    @cached_property
    def counts(self) -> np.ndarray:
        """(users,) int64: records of each user."""
        spec = self.spec
        if spec.lengths is None:
            return np.full(spec.users, spec.records)
        return np.array([len(owned) for owned in spec.lengths])

    @cached_property
    def lengths(self) -> np.ndarray:
        """(records,) int64: tokens of each record, grouped by user."""
        spec = self.spec
        if spec.lengths is None:
            return np.full(spec.users * spec.records, spec.length)
        return np.array(list(itertools.chain.from_iterable(spec.lengths)), np.int64)

    @cached_property
    def tokens(self) -> np.ndarray:
        """(tokens,) int32, record after record."""
        draw = np.random.Generator(np.random.PCG64([self.spec.seed, 1]))
        count = int(self.lengths.sum())
        return draw.integers(0, self.spec.vocabulary, count, dtype=np.int32)

    def rows(self) -> list[np.ndarray]:
        """All records, each (tokens,) int32."""
        return np.split(self.tokens, np.cumsum(self.lengths)[:-1])

    def users(self) -> Iterator[list[np.ndarray]]:
        """The records of each user in turn, each (tokens,) int32."""
        rows = iter(self.rows())
        return (list(itertools.islice(rows, count)) for count in self.counts.tolist())

    def base(self) -> Any:
        """A causal model with random weights and no dropout, on the device.

        A quantised one is drawn on the device, which holds it once as it is before; the host does
        not. Sides on one card draw the same.
        """
        with torch.random.fork_rng():
            torch.manual_seed(self.spec.seed)
            if self.spec.quantize is not None:
                return _quantized(self.spec, self.spec.quantize)
            auto_class: Any = transformers.AutoModelForCausalLM  # untyped
            model = auto_class.from_config(_config(self.spec), trust_remote_code=False)
        return model.to(getattr(torch, self.spec.dtype)).to(self.spec.device).eval()

    def plain(self) -> torch.nn.Module:
        """The base model with stock peft's LoRA layers, whose values are `adapter`."""
        config = peft.LoraConfig(
            r=self.spec.rank,
            lora_alpha=2 * self.spec.rank,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="fan_in_fan_out")
            model = peft.get_peft_model(self.base(), config).train()
        leaves = trained(model)
        torch.nn.utils.vector_to_parameters(
            torch.from_numpy(self.adapter(sum(leaf.numel() for leaf in leaves))).to(
                self.spec.device
            ),
            leaves,
        )
        return model

    def adapter(self, size: int) -> np.ndarray:
        """(size,) float32: initial adapter. The factor B is not zero, so that A has a gradient."""
        draw = np.random.Generator(np.random.PCG64([self.spec.seed, 2]))
        return draw.normal(0.0, 0.02, size).astype(np.float32)


def trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The adapter's tensors, in peft's order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def collate(records: list[np.ndarray], device: str) -> dict[str, Tensor]:
    """A padded batch for transformers.

    Args:
        records: each (tokens,) int32.

    Returns:
        input_ids, attention_mask and labels, each (records, longest) int64 on the device; labels of
        padding are `IGNORED`.
    """
    longest = max(map(len, records))
    ids = np.zeros((len(records), longest), np.int64)
    real = np.zeros((len(records), longest), np.int64)
    for row, flags, record in zip(ids, real, records, strict=True):
        row[: len(record)], flags[: len(record)] = record, 1
    batch = {
        "input_ids": ids,
        "attention_mask": real,
        "labels": np.where(real == 1, ids, IGNORED),
    }
    return {name: torch.from_numpy(array).to(device) for name, array in batch.items()}


def record_losses(model: torch.nn.Module, ids: Tensor, labels: Tensor) -> Tensor:
    """The mean loss over the tokens of each record.

    No attention mask is needed: padding follows the tokens, where a causal model does not look.

    Args:
        ids: (records, positions) int64.
        labels: (records, positions) int64, `IGNORED` at padding.

    Returns:
        (records,) float32.
    """
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    targets = labels[:, 1:]
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=IGNORED
    )
    return losses.view(targets.shape).sum(1) / (targets != IGNORED).sum(1)


def _quantized(spec: Spec, kind: str) -> Any:
    """A causal model whose linear layers are held in fewer bits, as a run holds them."""
    from userdp.clients.quantization import quantization  # not there in an environment of peers

    device, auto_class = torch.device(spec.device), transformers.AutoModelForCausalLM
    make: Any = auto_class.from_config  # untyped
    with device:
        model = make(_config(spec), dtype=getattr(torch, spec.dtype), trust_remote_code=False)
    quantization.quantize(model.eval().requires_grad_(False), kind, (), device)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what the layers took before belongs to all sides
    return model


def _config(spec: Spec) -> Any:
    """The configuration of a GPT-2 or Llama model of this size, without dropout."""
    positions = max(128, spec.length)
    vocabulary: dict[str, Any] = {
        "vocab_size": spec.vocabulary,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    if spec.family == "llama":
        return transformers.LlamaConfig(
            hidden_size=spec.width,
            intermediate_size=spec.hidden,
            num_hidden_layers=spec.layers,
            num_attention_heads=spec.heads,
            num_key_value_heads=spec.kv_heads or spec.heads,
            max_position_embeddings=positions,
            **vocabulary,
        )
    return transformers.GPT2Config(
        n_embd=spec.width,
        n_layer=spec.layers,
        n_head=spec.heads,
        n_inner=spec.hidden,
        n_positions=positions,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        **vocabulary,
    )
