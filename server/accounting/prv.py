"""Privacy random variables of Poisson subsampled Gaussians (Gopi et al., 2106.02848), by Opacus."""

from __future__ import annotations

from collections.abc import Sequence

from userdp.server.accounting.events import RoundEvent

RELATIVE_ERROR = 0.004
LEAST_ERROR = 0.001
MOST_ERROR = 0.01


def upper(parts: Sequence[tuple[RoundEvent, int]], delta: float, about: float) -> float:
    """Upper end of the accountant's own interval.

    Args:
        parts: single-slot events and their counts.
        delta: in (0, 1).
        about: rough epsilon; the width of the interval is chosen in proportion to it.

    Raises:
        ValueError: the accountant cannot analyse this setting.
    """
    from opacus.accountants import PRVAccountant  # imports torch: slow, and needed here only

    accountant = PRVAccountant()
    accountant.history = [(e.noise_multiplier, e.sampling_rate, count) for e, count in parts]
    error = min(max(RELATIVE_ERROR * about, LEAST_ERROR), MOST_ERROR)
    try:
        return float(accountant.get_epsilon(delta, eps_error=error))
    except (RuntimeError, ValueError, OverflowError) as failure:
        raise ValueError(
            f"accountant='prv' cannot analyse {accountant.history} at {delta=}: {failure} "
            "Take accountant='pld'."
        ) from failure
