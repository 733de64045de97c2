"""Noise by an estimate, claim by the certificate: what ``privacy.accountant=edgeworth`` means.

The target steers the search only; budget, ledger, statement and claim know the certified value.
"""

from __future__ import annotations

from dataclasses import dataclass

from userdp.server.accounting import RoundEvent
from userdp.server.accounting.edgeworth import estimate
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Steering:
    """What the Edgeworth accountant says of the noise that is used; an estimate, no bound."""

    accountant: str
    order: int
    target: float | None
    epsilon: float


def check(event: RoundEvent) -> None:
    """Refuse a mechanism whose rounds the estimate does not know.

    Raises:
        ConfigurationError: their guarantee may fail.
    """
    if event.failure_probability:
        raise ConfigurationError(
            "privacy.accountant=edgeworth: estimates no round whose guarantee may fail, as those "
            "of strategy=concentrated; take pld, prv or rdp."
        )


def noise_multiplier(
    event: RoundEvent, events: int, settings: Settings, target: float, delta: float
) -> float:
    """The noise at which the estimate of so many events meets the target.

    Raises:
        ValueError: the event is not one the estimate knows, or no noise meets the target.
    """
    order = settings.privacy.edgeworth_order
    return estimate.calibrate(event, events, target, delta, order=order)


def of(event: RoundEvent, events: int, settings: Settings, delta: float) -> Steering:
    """The estimate at the event's own noise."""
    order = settings.privacy.edgeworth_order
    return Steering(
        accountant="edgeworth",
        order=order,
        target=settings.privacy.epsilon,
        epsilon=estimate.estimate([(event, events)], delta, order=order),
    )
