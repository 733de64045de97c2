"""Noise calibrated with an accountant that only estimates; the claim stays a certified one.

With such an accountant (``privacy.accountant=edgeworth``; EW-Tune, arXiv 2210.15042) the estimate
is used in the search for the noise multiplier and nowhere else: budget, ledger, statement and claim
are computed by `userdp.server.accounting.accountants.DEFAULT`.
"""

from __future__ import annotations

from dataclasses import dataclass

from userdp.server.accounting import RoundEvent, accountants
from userdp.server.accounting.accountants import EstimatingAccountant
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.settings import Privacy


@dataclass(frozen=True, kw_only=True)
class NoiseEstimate:
    """The estimated epsilon of the noise that is used; it is no bound."""

    accountant: str  # name in the configuration
    order: int  # of the Edgeworth expansion
    target: float | None  # epsilon that the noise was calibrated to; None where it was given
    epsilon: float  # estimated


def estimator(privacy: Privacy) -> EstimatingAccountant | None:
    """The accountant that ``privacy.accountant`` names, if it is one that only estimates."""
    accountant = accountants.find(privacy.accountant)
    return accountant if isinstance(accountant, EstimatingAccountant) else None


def check(event: RoundEvent, privacy: Privacy) -> None:
    """Check that an estimate can describe the event.

    Raises:
        ConfigurationError: the guarantee of a round may fail with some probability.
    """
    if event.failure_probability:
        raise ConfigurationError(
            f"privacy.accountant={privacy.accountant}: estimates no round whose guarantee may "
            f"fail; choose one of {', '.join(accountants.certified_names())}."
        )


def of(
    accountant: EstimatingAccountant,
    event: RoundEvent,
    events: int,
    privacy: Privacy,
    delta: float,
) -> NoiseEstimate:
    """The estimate at the event's own noise, for ``events`` such events."""
    order = privacy.edgeworth_order
    return NoiseEstimate(
        accountant=privacy.accountant,
        order=order,
        target=privacy.epsilon,
        epsilon=accountant.estimate([(event, events)], delta, order=order),
    )
