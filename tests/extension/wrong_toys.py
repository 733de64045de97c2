"""Extensions with a wrong guarantee, which must be refused before any release."""

from dataclasses import replace

from userdp.server.accounting import CertifiedAccountant, RoundEvent
from userdp.server.mechanisms.user_wise import UserWise


class UnderstatedCost(UserWise):
    """Accounts for twice the noise that it adds."""

    def event(self) -> RoundEvent:
        return replace(super().event(), noise_multiplier=2 * self.noise_multiplier)


TOO_LOW = CertifiedAccountant(library="userdp", curve=lambda parts: lambda delta: 0.01)
