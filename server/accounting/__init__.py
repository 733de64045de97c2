"""Events to certified epsilon, target epsilon to noise multiplier.

>>> from server import accounting
>>> event = accounting.RoundEvent(sampling_rate=0.01, noise_multiplier=1.0)
>>> spent = accounting.epsilon([(event, 1000)], 1e-6)
>>> 2.11 < spent.lower <= spent.upper < 2.13
True
"""

from server.accounting import edgeworth
from server.accounting.calibrate import calibrate
from server.accounting.certify import (
    Epsilon,
    affordable_rounds,
    available,
    epsilon,
    epsilon_at_deltas,
    epsilon_curve,
    slot_epsilon,
)
from server.accounting.events import Composition, RoundEvent

__all__ = [
    "Composition",
    "Epsilon",
    "RoundEvent",
    "affordable_rounds",
    "available",
    "calibrate",
    "edgeworth",
    "epsilon",
    "epsilon_at_deltas",
    "epsilon_curve",
    "slot_epsilon",
]
