"""Device and precision of the base model."""

from __future__ import annotations

import re

import torch

from userdp.sim.common.errors import ConfigurationError


def device(name: str) -> torch.device:
    """The device of this name; ``auto`` is a GPU where there is one.

    Raises:
        ConfigurationError: the name is not valid, or this machine has no such GPU.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ConfigurationError(f"device={name}: choose auto, cpu, cuda or cuda:1.")
    named = torch.device(name)
    if named.type == "cuda" and (named.index or 0) >= torch.cuda.device_count():
        raise ConfigurationError(
            f"device={name}: this machine has {torch.cuda.device_count()} GPUs; choose cpu."
        )
    return named


def dtype(name: str, where: torch.device) -> torch.dtype:
    """The precision of this name; ``auto`` is bfloat16 on a GPU that has it, else float32."""
    if name == "auto":
        fits = where.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fits else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
