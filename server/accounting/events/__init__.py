"""Accounting events: what one round releases, in the terms that its privacy cost depends on."""

from userdp.server.accounting.events.round_event import (
    Composition,
    FloatArray,
    RoundEvent,
    merged,
)

__all__ = ["Composition", "FloatArray", "RoundEvent", "merged"]
