"""Certifies epsilon by zero-concentrated differential privacy, where all users take part.

A Gaussian round of noise multiplier z is 1/(2 z^2)-zCDP, the values of rounds add up, and rho-zCDP
gives epsilon = rho + 2 sqrt(rho log(1/delta)) (Bun and Steinke, arXiv 1605.02065, Propositions 1.6
and 1.3, Lemma 1.7).
"""

import math

from userdp.server.accounting import CertifiedAccountant, Composition, RoundEvent
from userdp.server.accounting.accountants import EpsilonCurve


def curve(parts: Composition) -> EpsilonCurve:
    """Upper epsilon of (event, count) pairs as a function of delta."""
    rho = sum(count / (2 * event.noise_multiplier**2) for event, count in parts)
    return lambda delta: rho + 2 * math.sqrt(rho * math.log(1 / delta))


def refuses(event: RoundEvent) -> str | None:
    """Why it cannot analyse the event; None if it can."""
    return None if event.sampling_rate == 1 else "analyses no sampled cohort"


ACCOUNTANT = CertifiedAccountant(library="userdp", curve=curve, refuses=refuses)
