"""How much a node computes at a time: as the memory allows, and less once it ran out."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable
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

CPU_TOKENS = 4096  # what keeps some cores busy; more only takes memory
MOST_TOKENS = 1 << 15  # a GPU is busy with fewer
MOST_LANES = {"cpu": 128, "cuda": 1024}  # short records fill a GPU only when many
_LANE_COPIES = 4  # of a lane's D float32: its gradients, a stack's, the leaves' and one to spare
_SHARE = 0.8  # of free memory
_TOO_LARGE = (
    "One record alone does not fit into the device's memory: take engine.checkpointing=true, or a "
    "smaller model.seq_len."
)


@dataclass(kw_only=True)
class EngineSettings:
    """Speed and memory only: no setting here changes the sum beyond float tolerance."""

    max_tokens: int = CPU_TOKENS  # positions of one forward pass
    max_lanes: int = MOST_LANES["cpu"]  # units whose gradients are held at a time

    def __post_init__(self) -> None:
        for name, value in (("max_tokens", self.max_tokens), ("max_lanes", self.max_lanes)):
            if value < 1:
                raise ConfigurationError(f"engine.{name}={value}: must be at least 1.")

    def attempt(self, compute: Callable[[], _Result], batch: Batch) -> _Result | None:
        """What ``compute`` returns; None if memory ran out: later stacks are half of this one.

        Raises:
            MemoryError: it ran out with a single row.
        """
        try:
            return compute()
        except torch.OutOfMemoryError:
            pass  # outside, where the traceback no longer holds what the attempt had in memory
        if len(batch.inputs) == 1:
            _LOG.error(_TOO_LARGE)  # a node's errors reach the server without their text
            raise MemoryError(_TOO_LARGE)
        torch.cuda.empty_cache()
        self.max_tokens = min(self.max_tokens, batch.inputs.numel() // 2)
        _warn_once()
        return None


@functools.cache
def _warn_once() -> None:
    """Without figures: how far a round had come would tell of the lengths of private texts."""
    _LOG.warning("The device's memory ran out; stacks are halved where it does.")


def fitted(
    model: LanguageModel, seq_len: int, max_tokens: int | None, max_lanes: int | None
) -> EngineSettings:
    """As asked for; None is chosen from the device's free memory, of which two stacks are tried.

    Args:
        seq_len: tokens of a record, at most.
    """
    free = _free_bytes(model.device)
    most = float(MOST_LANES[model.device.type])
    lanes = max_lanes or max(1, int(min(most, free / 4 / _lane_bytes(model))))
    if max_tokens is None and model.device.type == "cuda":
        room = _SHARE * (free - lanes * _lane_bytes(model))
        fit = min(float(MOST_TOKENS), room / _position_bytes(model, seq_len))
        max_tokens = max(seq_len - 1, int(fit))
    return EngineSettings(max_tokens=max_tokens or CPU_TOKENS, max_lanes=lanes)


def _lane_bytes(model: LanguageModel) -> int:
    return 4 * model.layout.size * _LANE_COPIES


def _free_bytes(device: torch.device) -> float:
    """On a CPU what could be had, caches of files included; infinite where nobody says."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    told = Path("/proc/meminfo")
    lines = told.read_text().splitlines() if told.exists() else []
    available = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * float(available[0]) if available else math.inf


def _position_bytes(model: LanguageModel, seq_len: int) -> float:
    """Memory that one more position of a stack takes: from two stacks of invented tokens.

    Infinite where the larger of them does not fit: records are then taken one by one.
    """
    rows = max(1, 1024 // seq_len)
    try:
        few, many = (_peak_bytes(model, seq_len, count) for count in (rows, 3 * rows))
    except torch.OutOfMemoryError:
        return math.inf
    return max(1.0, (many - few) / (2 * rows * (seq_len - 1)))


def _peak_bytes(model: LanguageModel, seq_len: int, rows: int) -> int:
    torch.cuda.reset_peak_memory_stats(model.device)
    model.gradients(model.initial.to(model.device), model.load(invented(model, seq_len, rows)))
    return torch.cuda.max_memory_allocated(model.device)


def invented(model: LanguageModel, seq_len: int, rows: int) -> packing.Stack:
    """A full stack of random tokens, one lane a row: no user's data is read."""
    tokens = rng.generator(0, "probe").integers(0, model.vocabulary, (rows, seq_len))
    if model.classes is not None:
        tokens[:, :-1], tokens[:, -1] = ~tokens[:, :-1], 0
    [stack] = packing.stacks([[row] for row in tokens], rows * seq_len)
    return stack
