"""A toy accountant as another package would write it: zero-concentrated differential privacy.

One Gaussian round without sampling is ``1 / (2 z^2)``-zCDP, values add up over rounds, and
``rho``-zCDP gives ``rho + 2 sqrt(rho log(1/delta))`` (Bun and Steinke, arXiv 1605.02065).
"""

from __future__ import annotations

import math

from userdp.server.accounting import CertifiedAccountant, Composition, RoundEvent


def curve(parts: Composition):
    """Upper epsilon of unsampled single-slot events as a function of delta."""
    rho = sum(count / (2 * event.noise_multiplier**2) for event, count in parts)
    return lambda delta: rho + 2 * math.sqrt(rho * math.log(1 / delta))


def refuses(event: RoundEvent) -> str | None:
    """Why it cannot analyse the event."""
    return "analyses no sampled cohort" if event.sampling_rate < 1 else None


ACCOUNTANT = CertifiedAccountant(library="numpy", curve=curve, refuses=refuses)
SLOW = CertifiedAccountant(library="numpy", curve=curve, refuses=refuses, slow=True)
TOO_LOW = CertifiedAccountant(library="numpy", curve=lambda parts: lambda delta: 0.01)
