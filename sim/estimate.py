"""How long a run will take, from timing the model on made-up tokens; no user's data is read."""

from __future__ import annotations

import time

from clients import engine
from clients.model import LanguageModel
from sim.planning import Plan
from sim.settings import Settings


def minutes(settings: Settings, plan: Plan, model: LanguageModel, max_tokens: int) -> float | None:
    """Minutes of training that the rounds take at most; None where k is open.

    Every record is counted at its full length, so that the figure says nothing of the real ones.
    """
    k, length = plan.mechanism.records_per_user, settings.model.seq_len
    if k == 0:
        return None
    rows = max(1, max_tokens // length)
    batch = model.load(engine.invented(model, length, rows))
    started = model.initial.to(model.device)
    times = []
    for _ in range(2):
        begin = time.perf_counter()
        model.gradients(started, batch)[1].item()
        times.append(time.perf_counter() - begin)
    return (
        plan.rounds * settings.cohort * k * settings.strategy.local_steps * min(times) / rows / 60
    )
