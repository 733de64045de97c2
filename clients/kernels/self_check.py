"""Whether a kernel computes the right numbers on a device, found out once by running it there."""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Callable

import torch

_LOG = logging.getLogger("userdp")


def has_triton() -> bool:
    """Whether Triton, which compiles some of the kernels, is installed."""
    return importlib.util.find_spec("triton") is not None


@functools.cache
def passes(check: Callable[[torch.device], bool], device: torch.device) -> bool:
    """Whether ``check(device)`` is true; an error of any kind counts as no, and is logged.

    The answer is a fact about the machine, so it is kept for the life of the process. The first
    call for a device waits for it; later calls do not.

    Args:
        check: runs a kernel on small inputs and compares it with a slower computation.
        device: with its index.
    """
    try:
        good = check(device)
    except Exception as error:  # of a compiler or driver: its text may hold anything
        _LOG.warning("%s: no kernel on %s (%s).", check.__module__, device, type(error).__name__)
        return False
    if not good:
        _LOG.warning("%s: the kernel's results on %s are wrong.", check.__module__, device)
    return good
