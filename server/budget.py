"""Privacy budget of a run: rounds that stay within the target, and epsilon after each of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from userdp.server import accounting
from userdp.server.mechanisms.base import Mechanism

# Jobs of a sweep that differ only in their seed share these results.
_affordable = functools.lru_cache(maxsize=64)(accounting.affordable_rounds)
_curve = functools.lru_cache(maxsize=64)(accounting.epsilon_curve)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Number of rounds that a run may intend, and what they cost."""

    rounds: int  # largest number of rounds that stays within the budget
    epsilon_after: Callable[[int], float]  # intents so far -> certified upper epsilon


def certified(
    mechanism: Mechanism,
    rounds: int,
    delta: float,
    *,
    epsilon: float,
    target: float | None,
    options: Mapping[str, str],
) -> Budget:
    """The budget of a run, accounted for before its first round.

    Args:
        mechanism: with the noise that the run uses.
        rounds: that were planned.
        delta: of the claim.
        epsilon: certified upper epsilon of all planned rounds.
        target: the epsilon that the run must not exceed; None allows all planned rounds.
        options: ``accountant`` and ``group_bound`` of `accounting.epsilon`.

    Raises:
        ConfigurationError: there is no accountant of this name.
        ValueError: the accountant does not accept the mechanism's event.
    """
    if not mechanism.private:
        return Budget(rounds=rounds, epsilon_after=lambda _: math.inf)
    event, events = mechanism.event(), mechanism.event_count(rounds)
    if target is not None and epsilon > target:
        affordable = _affordable(event, target, delta, events, **options)
        rounds = min(rounds, affordable * mechanism.rounds_per_event)
    curve = _curve(event, events, delta, **options)
    return Budget(rounds=rounds, epsilon_after=lambda n: curve(mechanism.event_count(n)))
