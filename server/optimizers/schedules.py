"""Learning-rate schedules of the server optimiser: linear warm-up, then constant, linear, cosine."""

from __future__ import annotations

import math
from collections.abc import Callable

from userdp.sim.common.errors import ConfigurationError

SCHEDULES = ("constant", "linear", "cosine")


def learning_rate_factor(schedule: str, warmup: int, rounds: int) -> Callable[[int], float]:
    """Factor on the learning rate of step t = 0, 1, ...: linear warm-up, then the decay.

    Raises:
        ConfigurationError: for an unknown schedule or a warm-up longer than the run.
    """
    if schedule not in SCHEDULES:
        raise ConfigurationError(f"schedule.name={schedule}: choose one of {', '.join(SCHEDULES)}.")
    if not 0 <= warmup <= rounds:
        raise ConfigurationError(f"schedule.warmup={warmup}: must be within 0..{rounds} rounds.")

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(1, rounds - warmup)
        if schedule == "linear":
            return max(0.0, 1.0 - progress)
        return 0.5 * (1 + math.cos(math.pi * progress)) if schedule == "cosine" else 1.0

    return factor
