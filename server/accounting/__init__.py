"""Privacy accounting: from events to certified epsilon, from a target epsilon to the noise.

>>> from userdp.server import accounting
>>> event = accounting.RoundEvent(sampling_rate=0.01, noise_multiplier=1.0)
>>> spent = accounting.epsilon([(event, 1000)], 1e-6)
>>> 2.11 < spent.lower <= spent.upper < 2.13
True
"""

from userdp.server.accounting.accountants import (
    Accountant,
    CertifiedAccountant,
    EstimatingAccountant,
    claim_library,
)
from userdp.server.accounting.calibrate import calibrate
from userdp.server.accounting.certify import (
    Epsilon,
    affordable_rounds,
    available,
    epsilon,
    epsilon_at_deltas,
    epsilon_curve,
    slot_epsilon,
)
from userdp.server.accounting.events import Composition, RoundEvent

__all__ = [
    "Accountant",
    "CertifiedAccountant",
    "Composition",
    "Epsilon",
    "EstimatingAccountant",
    "RoundEvent",
    "affordable_rounds",
    "available",
    "calibrate",
    "claim_library",
    "epsilon",
    "epsilon_at_deltas",
    "epsilon_curve",
    "slot_epsilon",
]
