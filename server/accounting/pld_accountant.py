"""The PLD accountant: our privacy loss distributions, whose upper end is the claim by default."""

from userdp.server.accounting.accountants import CertifiedAccountant
from userdp.server.accounting.pld import epsilon_bracket

ACCOUNTANT = CertifiedAccountant(
    library="userdp",
    capped_library="dp-accounting",  # computes the upper end of capped cohorts
    curve=epsilon_bracket.quick_curve,
    is_bracket=True,
    analyses_mixtures=True,
    analyses_capped_cohorts=True,
)
