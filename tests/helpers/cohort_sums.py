"""Clipped cohort sums of a tiny model, and the relative error of one against another."""

from __future__ import annotations

import numpy as np
import torch

from helpers import lanes, tiny
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.clients.training import clipping, cohort_update
from userdp.clients.training.memory import EngineSettings


def setting(family="gpt2", dtype=torch.float32):
    """A tiny model of the family, and an adapter (D,) away from its initial one."""
    base = tiny.base_model(family).to(dtype)
    model = LanguageModel(base, LoraSettings(r=3, alpha=6))
    noise = torch.randn(model.layout.size, generator=torch.Generator().manual_seed(1))
    return model, model.initial + 0.1 * noise


def clipped(model, adapter, units, clip_norm=0.5, steps=1, **sizes):
    """The cohort sum of the units under engine settings of these sizes."""
    local = cohort_update.LocalTraining(steps=steps, lr=0.3)
    engine = EngineSettings(**sizes)
    return cohort_update.cohort_sum(
        model, adapter, units, clip_norm=clip_norm, local=local, engine=engine
    )


def relative_error(got, wanted):
    """``|got - wanted| / |wanted|`` of two vectors, in float64."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def check_the_same_for_any_engine(model, adapter, units, clip_norm):
    """The sum over all stacks, lanes and orders of units is that of each unit alone."""
    local = cohort_update.LocalTraining()
    alone = [lanes.block_updates(model, adapter, [u], local, 10**6)[0] for u in units]
    wanted = clipping.clipped_sum(torch.cat(alone), clip_norm).total
    for max_tokens, max_lanes, order in [(1, 1, 1), (40, 3, -1), (97, 5, 1), (10**6, 100, -1)]:
        engine = EngineSettings(max_tokens=max_tokens, max_lanes=max_lanes)
        got = cohort_update.cohort_sum(
            model, adapter, units[::order], clip_norm=clip_norm, local=local, engine=engine
        )
        assert relative_error(got.total, wanted) < 1e-5
        assert got.figures["cohort_size"] == len(units)
        assert got.figures["failed_units"] == 0
