"""Rounds that stay within a run's target, and epsilon so far: certified before round 1."""

from __future__ import annotations

import functools

from userdp.server import accounting
from userdp.server.strategy import Budget
from userdp.sim.planning.planner import Plan

# Runs of a sweep that differ in their seed alone have the same answers.
_affordable = functools.lru_cache(maxsize=64)(accounting.affordable_rounds)
_curve = functools.lru_cache(maxsize=64)(accounting.epsilon_curve)


def certified(plan: Plan) -> Budget:
    """What a run of this plan may spend."""
    mechanism = plan.mechanism
    if not mechanism.private:
        return Budget(rounds=plan.rounds, epsilon_after=lambda _: float("inf"))
    event, options = mechanism.event(), plan.options
    events, rounds = mechanism.event_count(plan.rounds), plan.rounds
    if plan.target is not None and plan.epsilon.upper > plan.target:
        fit = _affordable(event, plan.target, plan.delta, events, **options)
        rounds = min(rounds, fit * mechanism.rounds_per_event)
    curve = _curve(event, events, plan.delta, **options)
    return Budget(rounds=rounds, epsilon_after=lambda n: curve(mechanism.event_count(n)))
