"""The PRV accountant: privacy random variables of subsampled Gaussians, computed by Opacus.

Gopi et al., "Numerical Composition of Differential Privacy", arXiv 2106.02848.
"""

from __future__ import annotations

from userdp.server.accounting.accountants import CertifiedAccountant, EpsilonCurve
from userdp.server.accounting.events import Composition
from userdp.server.accounting.pld import epsilon_bracket

RELATIVE_ERROR = 0.004
LEAST_ERROR = 0.001
MOST_ERROR = 0.01


def upper(parts: Composition, delta: float, approximate_epsilon: float) -> float:
    """Upper end of Opacus's interval for epsilon.

    Args:
        parts: single-slot events and their counts.
        delta: in (0, 1).
        approximate_epsilon: the interval's width is chosen in proportion to it.

    Raises:
        ValueError: Opacus cannot analyse these rounds at this delta.
    """
    from opacus.accountants import PRVAccountant  # imports torch, which is slow

    accountant = PRVAccountant()
    accountant.history = [(e.noise_multiplier, e.sampling_rate, count) for e, count in parts]
    error = min(max(RELATIVE_ERROR * approximate_epsilon, LEAST_ERROR), MOST_ERROR)
    try:
        return float(accountant.get_epsilon(delta, eps_error=error))
    except (RuntimeError, ValueError, OverflowError) as failure:
        raise ValueError(
            f"accountant='prv' cannot analyse {accountant.history} at {delta=}: {failure} "
            "Take accountant='pld'."
        ) from failure


def curve(parts: Composition) -> EpsilonCurve:
    """Upper epsilon of single-slot events as a function of delta; each value takes seconds."""
    return lambda delta: upper(parts, delta, epsilon_bracket.quick_upper(parts, delta))


ACCOUNTANT = CertifiedAccountant(library="opacus", curve=curve, slow=True)
