"""Clipped cohort sums of a tiny model, and the relative error of one against another."""

from __future__ import annotations

import numpy as np
import torch

from helpers import tiny
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.clients.training import cohort_update
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
