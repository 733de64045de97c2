"""How many rounds stay within a run's target, and epsilon so far: accounted before round 1."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from userdp.server import accounting
from userdp.server.mechanisms.base import Mechanism

# Runs of a sweep that differ in their seed alone share these answers.
_affordable = functools.lru_cache(maxsize=64)(accounting.affordable_rounds)
_curve = functools.lru_cache(maxsize=64)(accounting.epsilon_curve)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a run may spend."""

    rounds: int  # the largest number of rounds that stays within the budget
    epsilon_after: Callable[[int], float]  # certified upper epsilon after so many intents


def certified(
    mechanism: Mechanism,
    rounds: int,
    delta: float,
    *,
    epsilon: float,
    target: float | None,
    options: Mapping[str, str],
) -> Budget:
    """The budget of a run of ``rounds`` rounds.

    Args:
        mechanism: with the noise that the run uses.
        delta: of the claim.
        epsilon: upper epsilon of all the rounds.
        target: the epsilon that must not be exceeded; None allows all the rounds.
        options: ``accountant`` and ``group_bound``, as `accounting.epsilon` takes them.
    """
    if not mechanism.private:
        return Budget(rounds=rounds, epsilon_after=lambda _: math.inf)
    event, events = mechanism.event(), mechanism.event_count(rounds)
    if target is not None and epsilon > target:
        affordable = _affordable(event, target, delta, events, **options)
        rounds = min(rounds, affordable * mechanism.rounds_per_event)
    curve = _curve(event, events, delta, **options)
    return Budget(rounds=rounds, epsilon_after=lambda n: curve(mechanism.event_count(n)))
