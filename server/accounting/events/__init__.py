"""Accounting events: what one round releases, in the terms that its price depends on."""

from userdp.server.accounting.events.round_event import Composition, RoundEvent, merged

__all__ = ["Composition", "RoundEvent", "merged"]
