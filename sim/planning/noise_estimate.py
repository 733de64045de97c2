"""Noise found by an accountant that only estimates; the claim stays the certified one.

With ``privacy.accountant=edgeworth`` (EW-Tune, arXiv 2210.15042) the estimate steers the search for
the noise multiplier and nothing else: budget, ledger, statement and claim are of the PLD.
"""

from __future__ import annotations

from dataclasses import dataclass

from userdp.server.accounting import RoundEvent, accountants
from userdp.server.accounting.accountants import EstimatingAccountant
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.settings import Privacy


@dataclass(frozen=True, kw_only=True)
class NoiseEstimate:
    """What the estimating accountant says of the noise that is used; an estimate, no bound."""

    accountant: str
    order: int
    target: float | None
    epsilon: float


def estimator(privacy: Privacy) -> EstimatingAccountant | None:
    """The accountant that finds the noise, if ``privacy.accountant`` names one that estimates."""
    accountant = accountants.find(privacy.accountant)
    return accountant if isinstance(accountant, EstimatingAccountant) else None


def check(event: RoundEvent, privacy: Privacy) -> None:
    """Refuse an event that an estimate cannot describe.

    Raises:
        ConfigurationError: the guarantee of a round may fail.
    """
    if event.failure_probability:
        raise ConfigurationError(
            f"privacy.accountant={privacy.accountant}: estimates no round whose guarantee may "
            f"fail; take one of {', '.join(accountants.certified_names())}."
        )


def of(
    found_by: EstimatingAccountant,
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
        epsilon=found_by.estimate([(event, events)], delta, order=order),
    )
