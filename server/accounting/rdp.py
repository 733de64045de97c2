"""Renyi accounting of Poisson subsampled Gaussians, through dp_accounting (add-or-remove-one)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from userdp.server.accounting.events import RoundEvent

ORDERS = (
    [1 + x / 10 for x in range(1, 20)]
    + [3 + x / 4 for x in range(32)]
    + list(range(11, 64))
    + [64, 96, 128, 192, 256, 512, 1024, 4096]  # an integer order costs time in proportion to it
)


def curve(parts: Sequence[tuple[RoundEvent, int]]) -> Callable[[float], float]:
    """Upper epsilon as a function of delta; the events are single slots."""
    return _curve(tuple(parts))


@functools.lru_cache(maxsize=16)
def _curve(parts: tuple[tuple[RoundEvent, int], ...]) -> Callable[[float], float]:
    from dp_accounting import rdp  # slow to import, and needed by this accountant only

    accountant = rdp.RdpAccountant(ORDERS)
    for event, count in parts:
        accountant.compose(event.dp_event(), count)
    return lambda delta: float(accountant.get_epsilon(delta))
