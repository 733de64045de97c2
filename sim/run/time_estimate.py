"""Estimates how long a run will take by timing the model on random tokens; reads no user's data."""

from __future__ import annotations

import time

from userdp.clients.models.language_model import LanguageModel
from userdp.clients.training import memory
from userdp.clients.training.memory import EngineSettings
from userdp.sim.config.settings import Settings
from userdp.sim.inputs.run_inputs import RunInputs
from userdp.sim.planning.planner import Plan


def minutes(
    settings: Settings, plan: Plan, inputs: RunInputs, engine: EngineSettings
) -> float | None:
    """Upper estimate of the minutes of training; None if k is "all".

    Every record counts with the longest possible length, so that the figure is independent of the
    private records.
    """
    k, length = plan.mechanism.records_per_user, settings.model.seq_len
    if k == 0:
        return None
    seconds = inputs.cached(
        ("seconds a row", settings.model.lora, settings.engine, length, engine.max_tokens),
        lambda: _seconds_a_row(inputs.model, length, engine.max_tokens),
    )
    devices = len({model.device for model in engine.models_of(inputs.model)})
    rows = plan.rounds * settings.cohort * k * settings.strategy.local_steps
    return rows * seconds / devices / 60


def _seconds_a_row(model: LanguageModel, length: int, max_tokens: int) -> float:
    """Seconds of a forward and backward pass for one row of ``length`` tokens."""
    rows = max(1, max_tokens // length)
    batch = model.load(memory.invented(model, length, rows))
    adapter = model.initial.to(model.device)
    times = []
    for _ in range(2):
        begin = time.perf_counter()
        model.gradients(adapter, batch)[1].item()
        times.append(time.perf_counter() - begin)
    return min(times) / rows
