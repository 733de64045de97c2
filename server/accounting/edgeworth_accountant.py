"""The Edgeworth accountant: estimates of epsilon that find noise and certify nothing."""

from userdp.server.accounting.accountants import EstimatingAccountant
from userdp.server.accounting.edgeworth import estimate
from userdp.server.accounting.events import RoundEvent


def _refuses(event: RoundEvent) -> str | None:
    if event.failure_probability:
        return "estimates no round whose guarantee may fail"
    return None


ACCOUNTANT = EstimatingAccountant(
    library="userdp",
    estimate=estimate.estimate,
    calibrate=estimate.calibrate,
    analyses_mixtures=True,
    refuses=_refuses,
)
