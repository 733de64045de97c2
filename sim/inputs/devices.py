"""Devices of the base model.

The devices of a run are of one kind, since a block of units is computed by whichever is free. Where
kinds round differently, an update would depend on timing, and in bfloat16 by more than rounding.
"""

from __future__ import annotations

import re

import torch

from userdp.sim.common.errors import ConfigurationError


def several(name: str) -> tuple[torch.device, ...]:
    """The devices of this name, divided by commas; the first one evaluates, too.

    ``auto`` is a GPU where there is one, ``cuda:all`` are all GPUs. The CPU may be named several
    times, to try several devices without a GPU.

    Raises:
        ConfigurationError: a name is not valid, this machine has no such GPU, a GPU is named twice,
            or the devices are not of one kind.
    """
    if name == "auto":
        return (torch.device("cuda" if torch.cuda.is_available() else "cpu"),)
    if name == "cuda:all":
        names = [f"cuda:{index}" for index in range(max(1, torch.cuda.device_count()))]
    else:
        names = [part.strip() for part in name.split(",")]
    found = tuple(_device(name, part) for part in names)
    if len(found) == 1:
        return found
    numbered = tuple(
        torch.device("cuda", one.index or 0) if one.type == "cuda" else one for one in found
    )
    _check_alike(name, numbered)
    return numbered


def device(name: str) -> torch.device:
    """The first device of this name.

    Raises:
        ConfigurationError: as `several`.
    """
    return several(name)[0]


def _device(name: str, part: str) -> torch.device:
    """The device that ``part`` of the setting ``name`` names."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", part):
        raise ConfigurationError(
            f"device={name}: choose auto, cpu, cuda or cuda:1, several GPUs as cuda:0,cuda:1, or "
            "cuda:all."
        )
    named = torch.device(part)
    if named.type == "cuda" and (named.index or 0) >= torch.cuda.device_count():
        raise ConfigurationError(
            f"device={name}: this machine has {torch.cuda.device_count()} GPUs; choose cpu."
        )
    return named


def _check_alike(name: str, found: tuple[torch.device, ...]) -> None:
    """Refuse GPUs that are named twice, and devices of different kinds."""
    gpus = [one for one in found if one.type == "cuda"]
    for one in gpus:
        if gpus.count(one) > 1:
            raise ConfigurationError(f"device={name}: {one} is named twice; name each GPU once.")
    if 0 < len(gpus) < len(found):
        raise ConfigurationError(
            f"device={name}: a CPU and a GPU round differently, so the result would depend on "
            "timing; choose GPUs alone."
        )
    kinds = {torch.cuda.get_device_name(one) for one in gpus}
    if len(kinds) > 1:
        raise ConfigurationError(
            f"device={name}: GPUs of different kinds ({', '.join(sorted(kinds))}) round "
            "differently, so the result would depend on timing; choose GPUs of one kind."
        )
