"""How long a run will take, from timing the model on made-up tokens; no user's data is read."""

from __future__ import annotations

import time

from clients import packing
from clients.model import LanguageModel
from sim import rng
from sim.planning import Plan
from sim.settings import Settings


def minutes(settings: Settings, plan: Plan, model: LanguageModel) -> float | None:
    """Minutes of training that the rounds take at most; None where k is open.

    Every record is counted at its full length, so that the figure says nothing of the real ones.
    """
    k = plan.mechanism.records_per_user
    if k == 0:
        return None
    length = settings.model.seq_len
    rows = max(1, settings.engine.max_tokens // length)
    tokens = rng.generator(0, "probe").integers(0, model.vocabulary, (rows, length))
    if model.classes is not None:
        tokens[:, :-1], tokens[:, -1] = ~tokens[:, :-1], 0
    [stack] = packing.stacks([[row] for row in tokens], rows * length)
    started = model.initial.to(model.device)
    times = []
    for _ in range(2):
        begin = time.perf_counter()
        model.gradients(started, stack)[1].item()
        times.append(time.perf_counter() - begin)
    return (
        plan.rounds * settings.cohort * k * settings.strategy.local_steps * min(times) / rows / 60
    )
