"""How long a run will take, from timing the model on made-up tokens; no user's data is read."""

from __future__ import annotations

import time

from userdp.clients.models.language_model import LanguageModel
from userdp.clients.training import memory
from userdp.sim.config.settings import Settings
from userdp.sim.planning.planner import Plan
from userdp.sim.run.inputs import World


def minutes(settings: Settings, plan: Plan, here: World, max_tokens: int) -> float | None:
    """Minutes of training that the rounds take at most; None where k is open.

    Every record is counted at its full length, so that the figure says nothing of the real ones.
    """
    k, length = plan.mechanism.records_per_user, settings.model.seq_len
    if k == 0:
        return None
    seconds = here.figure(
        ("seconds a row", settings.model.lora, settings.engine, length, max_tokens),
        lambda: _seconds_a_row(here.model, length, max_tokens),
    )
    return plan.rounds * settings.cohort * k * settings.strategy.local_steps * seconds / 60


def _seconds_a_row(model: LanguageModel, length: int, max_tokens: int) -> float:
    rows = max(1, max_tokens // length)
    batch = model.load(memory.invented(model, length, rows))
    started = model.initial.to(model.device)
    times = []
    for _ in range(2):
        begin = time.perf_counter()
        model.gradients(started, batch)[1].item()
        times.append(time.perf_counter() - begin)
    return min(times) / rows
