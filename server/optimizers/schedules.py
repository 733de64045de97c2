"""Learning-rate schedules of the server optimiser, each after a linear warm-up.

>>> factor = learning_rate_factor("linear", 1, 3)
>>> [factor(step) for step in range(3)]
[0.5, 1.0, 0.5]
"""

from __future__ import annotations

import math
from collections.abc import Callable

from userdp.sim.common.errors import ConfigurationError

SCHEDULES = ("constant", "linear", "cosine")


def check(schedule: str) -> None:
    """Refuse a name that is no schedule's.

    Raises:
        ConfigurationError: names those there are.
    """
    if schedule not in SCHEDULES:
        raise ConfigurationError(f"schedule.name={schedule}: choose one of {', '.join(SCHEDULES)}.")


def learning_rate_factor(schedule: str, warmup: int, rounds: int) -> Callable[[int], float]:
    """The function from a step t = 0, 1, ... to the factor on its learning rate.

    Args:
        schedule: "constant", "linear" or "cosine"; the last two fall to 0 at the end of the run.
        warmup: rounds in which the factor rises linearly, from ``1 / (warmup + 1)``.
        rounds: of the run.

    Raises:
        ConfigurationError: the schedule is unknown, or the warm-up is longer than the run.
    """
    check(schedule)
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
