"""The precision of the base model: the one that is named, or the one that fits model and device.

On a CPU ``auto`` takes bfloat16 where two things hold: the checkpoint is stored in 16 bits, so that
float32 would add nothing to it, and this machine multiplies matrices faster in bfloat16. The second
is measured, once for each machine, since names of processors do not tell it.
"""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path

import torch
import transformers

from userdp.sim.common import cache, durable_file

VERSION = 1  # of the measurement; part of the cache key
_NAMED = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_PAYS = 0.8  # of the time in float32: below it, bfloat16 makes up for the rows it fills up
_SHAPE = (512, 576, 1536)  # rows, inputs and outputs of a layer of a model of 135M parameters
_TURNS = 7


def dtype(name: str, where: torch.device, stored: torch.dtype | None = None) -> torch.dtype:
    """The precision of this name on a device.

    Args:
        name: ``auto`` or a precision.
        stored: precision of the checkpoint; None where it is not known.
    """
    if name != "auto":
        return _NAMED[name]
    if where.type == "cuda":
        fits = torch.cuda.is_bf16_supported()
    else:
        fits = stored in (torch.bfloat16, torch.float16) and bfloat16_pays()
    return torch.bfloat16 if fits else torch.float32


def stored(path: str | Path, revision: str | None) -> torch.dtype | None:
    """The precision that a checkpoint's configuration states; None where it states none.

    A model that is not there is refused where it is loaded.

    Args:
        path: folder, or name on the hub.
        revision: on the hub; None takes the default branch.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(
            path, revision=revision, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError):
        return None
    stated = getattr(config, "dtype", None)
    return stated if isinstance(stated, torch.dtype) else None


def bfloat16_pays() -> bool:
    """Whether this machine's processor is clearly faster in bfloat16; measured once, then cached.

    All runs of a machine, and a resumed one, so choose the same.
    """
    cpu = processor(torch.device("cpu"))
    place = cache.place(cache.cache_root(), "machines", VERSION, torch.__version__, *cpu)

    def build(folder: Path) -> None:
        durable_file.replace(folder / "ratio.json", json.dumps(_ratio()).encode())

    ratio: float = cache.stored(place, build, _read)
    return ratio <= _PAYS


def _read(folder: Path) -> float:
    return float(json.loads((folder / "ratio.json").read_text(encoding="ascii")))


def _ratio() -> float:
    """The time of a product in bfloat16 over that in float32: of the shortest of several turns."""
    rows, inputs, outputs = _SHAPE
    shortest = dict.fromkeys(_NAMED, float("inf"))
    for _ in range(_TURNS):
        for name, precision in _NAMED.items():
            left = torch.ones(rows, inputs, dtype=precision)
            right = torch.ones(inputs, outputs, dtype=precision)
            begin = time.perf_counter()
            torch.mm(left, right)
            shortest[name] = min(shortest[name], time.perf_counter() - begin)
    return shortest["bfloat16"] / shortest["float32"]


def processor(device: torch.device) -> tuple[object, ...]:
    """What computes on a device, as far as its rounding and its speed go."""
    if device.type == "cuda":
        return (torch.cuda.get_device_name(device),)
    return platform.machine(), _model_name(), torch.get_num_threads()


def _model_name() -> str:
    """What the system calls the processor; empty where it does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), "")
