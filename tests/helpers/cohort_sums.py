"""Clipped sums of a tiny model over made-up units."""

from __future__ import annotations

import torch

from helpers import tiny
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.clients.training import cohort_update
from userdp.clients.training.memory import EngineSettings


def setting(family="gpt2", dtype=torch.float32):
    base = tiny.base_model(family).to(dtype)
    model = LanguageModel(base, LoraSettings(r=3, alpha=6))
    noise = torch.randn(model.layout.size, generator=torch.Generator().manual_seed(1))
    return model, model.initial + 0.1 * noise


def clipped(model, adapter, units, clip_norm=0.5, steps=1, **sizes):
    local = cohort_update.LocalTraining(steps=steps, lr=0.3)
    asked = EngineSettings(**sizes)
    return cohort_update.cohort_sum(
        model, adapter, units, clip_norm=clip_norm, local=local, engine=asked
    )


def relative_error(got, wanted):
    return float((got - wanted).norm() / wanted.norm())
