"""The RDP accountant: Renyi divergences of subsampled Gaussians, computed by dp_accounting."""

from __future__ import annotations

import functools

from userdp.server.accounting.accountants import CertifiedAccountant, EpsilonCurve
from userdp.server.accounting.events import Composition, RoundEvent

ORDERS = (
    [1 + x / 10 for x in range(1, 20)]
    + [3 + x / 4 for x in range(32)]
    + list(range(11, 64))
    + [64, 96, 128, 192, 256, 512, 1024, 4096]  # an integer order costs time in proportion to it
)


def curve(parts: Composition) -> EpsilonCurve:
    """Upper epsilon of single-slot events as a function of delta (add-or-remove adjacency)."""
    return _cached_curve(tuple(parts))


@functools.lru_cache(maxsize=16)
def _cached_curve(parts: tuple[tuple[RoundEvent, int], ...]) -> EpsilonCurve:
    from dp_accounting import rdp  # slow to import

    accountant = rdp.RdpAccountant(ORDERS)
    for event, count in parts:
        accountant.compose(event.dp_event(), count)
    return lambda delta: float(accountant.get_epsilon(delta))


ACCOUNTANT = CertifiedAccountant(library="dp-accounting", curve=curve)
