"""Sizes of the stacks and blocks of a node: chosen from free memory, halved when it runs out."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from userdp.clients.batching import packing
from userdp.clients.batching.device_batches import Batch
from userdp.clients.models.language_model import LanguageModel
from userdp.sim.common import rng
from userdp.sim.common.errors import ConfigurationError

_LOG = logging.getLogger("userdp")
_Result = TypeVar("_Result")

CPU_TOKENS = 4096  # enough to keep several cores busy; more costs memory only
MAX_TOKENS = 1 << 15  # enough to keep a GPU busy
MAX_LANES = {"cpu": 128, "cuda": 1024}  # by device; short records fill a GPU only if many
_CPU_BLOCK = 1 << 30  # bytes of a block's lanes; more lanes save a CPU nothing
_LANE_COPIES = 4  # of D float32 per lane: the block's gradients, a stack's, the leaves', one spare
_MEMORY_FRACTION = 0.8  # of free memory, for stacks
_RECORD_TOO_LARGE = (
    "One record alone does not fit into the device's memory: take engine.checkpointing=true, or a "
    "smaller model.seq_len."
)


@dataclass(kw_only=True)
class EngineSettings:
    """Sizes that change speed and memory; they change a cohort's sum by float rounding only.

    Attributes:
        max_tokens: positions of one stack, at most; smaller after a device ran out of memory.
        max_lanes: units of one block, whose gradients are held together, at most.
        models: one model on several devices, among which blocks are divided; empty: one device.
        turns: a lock for passes that only one thread may start at a time; None: all may.

    Raises:
        ConfigurationError: a size is below 1.
    """

    max_tokens: int = CPU_TOKENS
    max_lanes: int = MAX_LANES["cpu"]
    models: Sequence[LanguageModel] = ()
    turns: threading.Lock | None = None

    def __post_init__(self) -> None:
        for name, value in (("max_tokens", self.max_tokens), ("max_lanes", self.max_lanes)):
            if value < 1:
                raise ConfigurationError(f"engine.{name}={value}: must be at least 1.")

    def models_of(self, model: LanguageModel) -> Sequence[LanguageModel]:
        """The model on each device, itself the first.

        Raises:
            ValueError: the settings are of another model.
        """
        if self.models and self.models[0] is not model:
            raise ValueError("Engine settings with several devices serve one model.")
        return self.models or (model,)

    def attempt(
        self, compute: Callable[[], _Result], batch: Batch, *, shrink: bool = True
    ) -> _Result | None:
        """Run a computation on a batch; if memory runs out, limit later stacks to half its size.

        Args:
            shrink: whether to limit later stacks.

        Returns:
            The result of ``compute``, or None if memory ran out.

        Raises:
            MemoryError: memory ran out with a single row.
        """
        try:
            with self.turns or contextlib.nullcontext():
                return compute()
        except torch.OutOfMemoryError:
            pass  # handled below, once the traceback has released the tensors of the attempt
        if not batch.divisible:
            _LOG.error(_RECORD_TOO_LARGE)  # the server gets a node's error without its message
            raise MemoryError(_RECORD_TOO_LARGE)
        torch.cuda.empty_cache()
        if shrink:
            self.max_tokens = min(self.max_tokens, batch.inputs.numel() // 2)
        _warn_once()
        return None


@functools.cache
def _warn_once() -> None:
    """One warning per process, without sizes: these would reveal the lengths of private texts."""
    _LOG.warning("The device's memory ran out; stacks are halved where it does.")


def fitted(
    model: LanguageModel,
    seq_len: int,
    max_tokens: int | None,
    max_lanes: int | None,
    others: Sequence[LanguageModel] = (),
) -> EngineSettings:
    """Engine settings with the given sizes; a size of None is chosen from free memory.

    On a GPU the number of positions is chosen by computing two stacks of random tokens. On a CPU
    it is a constant. Several devices get the sizes of the smallest, so that a block is computed in
    the same stacks wherever it is.

    Args:
        seq_len: tokens of a record, at most.
        others: the same model on further devices.

    Raises:
        ConfigurationError: a given size is negative.
    """
    models = (model, *others)
    fits = [_fits(one, seq_len, max_tokens, max_lanes, _sharing(one, models)) for one in models]
    return EngineSettings(
        max_tokens=min(tokens for tokens, _ in fits),
        max_lanes=min(lanes for _, lanes in fits),
        models=models if others else (),
    )


def _sharing(model: LanguageModel, models: Sequence[LanguageModel]) -> int:
    """How many of the models share the memory of this one's device."""
    return sum(one.device == model.device for one in models)


def _fits(
    model: LanguageModel,
    seq_len: int,
    max_tokens: int | None,
    max_lanes: int | None,
    sharing: int,
) -> tuple[int, int]:
    """Positions of a stack and units of a block for one device, which ``sharing`` models share."""
    free = free_bytes(model.device) / sharing
    limit = float(MAX_LANES[model.device.type])
    if model.device.type == "cpu":
        limit = min(limit, _CPU_BLOCK / _lane_bytes(model))
    lanes = max_lanes or max(1, int(min(limit, free / 4 / _lane_bytes(model))))
    if max_tokens is None and model.device.type == "cuda":
        available = _MEMORY_FRACTION * (free - lanes * _lane_bytes(model))
        positions = min(float(MAX_TOKENS), available / _position_bytes(model, seq_len))
        max_tokens = max(seq_len - 1, int(positions))
    return max_tokens or CPU_TOKENS, lanes


def _lane_bytes(model: LanguageModel) -> int:
    """Memory that one more lane of a block takes."""
    return 4 * model.layout.size * _LANE_COPIES


def free_bytes(device: torch.device) -> float:
    """Free memory of the device; on a CPU with file caches included, infinite if unknown."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text(encoding="ascii").splitlines() if meminfo.exists() else []
    available = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * float(available[0]) if available else math.inf


def _position_bytes(model: LanguageModel, seq_len: int) -> float:
    """Additional memory per position of a stack, measured on two stacks of random tokens.

    Infinite if the larger one does not fit; each record then becomes a stack of its own.
    """
    rows = max(1, 1024 // seq_len)
    try:
        small, large = (_peak_bytes(model, seq_len, count) for count in (rows, 3 * rows))
    except torch.OutOfMemoryError:
        return math.inf
    return max(1.0, (large - small) / (2 * rows * (seq_len - 1)))


def _peak_bytes(model: LanguageModel, seq_len: int, rows: int) -> int:
    """Peak memory of the gradients of a stack of ``rows`` full records."""
    torch.cuda.reset_peak_memory_stats(model.device)
    model.gradients(model.initial.to(model.device), model.load(invented(model, seq_len, rows)))
    return torch.cuda.max_memory_allocated(model.device)


def invented(model: LanguageModel, seq_len: int, rows: int) -> packing.Stack:
    """A stack of ``rows`` records of ``seq_len`` random tokens, one per lane, for measurements."""
    tokens = rng.generator(0, "probe").integers(0, model.vocabulary, (rows, seq_len))
    if model.classes is not None:
        tokens[:, :-1], tokens[:, -1] = ~tokens[:, :-1], 0
    [stack] = packing.stacks([[row] for row in tokens], rows * seq_len)
    return stack
