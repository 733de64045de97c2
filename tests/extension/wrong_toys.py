"""Extensions with a wrong guarantee, which must be refused before any release."""

from dataclasses import replace

from userdp.server.accounting import CertifiedAccountant, RoundEvent
from userdp.server.mechanisms.base import Release
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.common import rng
from userdp.sim.protocol.cohort_sum import CohortSum


class UnderstatedCost(UserWise):
    """Accounts for twice the noise that it adds."""

    def event(self) -> RoundEvent:
        return replace(super().event(), noise_multiplier=2 * self.noise_multiplier)


class WithoutNoise(UserWise):
    """Claims the noise of its event, and returns the exact mean."""

    def release(self, cohort: CohortSum, stream: rng.SecretStream, number: int) -> Release:
        noised = super().release(cohort, stream, number)
        return replace(noised, mean=cohort.total / self.expected_units)


TOO_LOW = CertifiedAccountant(library="userdp", curve=lambda parts: lambda delta: 0.01)
