"""Ragged rounds with compiled layers: versions are few, and no pass runs without one."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from helpers import tiny
from helpers.cohort_sums import relative_error
from userdp.clients.models import acceleration
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.clients.training import cohort_update
from userdp.clients.training.memory import EngineSettings

# With padded rows and with packed ones, whose layers are compiled in parts, before attention and
# behind it.
ROUNDS = {False: 200, True: 60}
# One lane or several, which share an adapter or have their own; one row a lane or several; for the
# first layer and for the others. A round has no evaluation, which would add four.
MOST = {False: 12, True: 30}


@contextlib.contextmanager
def compiled(model):
    """The compiled graphs, as they are made; where torch would make no more, it raises."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    acceleration.compile_layers(model.module, True, backend=backend)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield graphs
    acceleration.compile_layers(model.module, False)
    torch._dynamo.reset()


def rounds(model, count):
    """Sums of rounds over ragged cohorts, one local step and two by turns."""
    source, engine = np.random.default_rng(0), EngineSettings(max_tokens=64, max_lanes=4)
    for number in range(count):
        longest, size = int(source.integers(2, 40)), int(source.integers(1, 7))
        local = cohort_update.LocalTraining(steps=1 + number % 2, lr=0.1)
        units = tiny.ragged_units(size, seed=number, longest=longest)
        yield cohort_update.cohort_sum(
            model, model.initial, units, clip_norm=0.5, local=local, engine=engine
        ).total


@pytest.mark.slow
@pytest.mark.trust
@pytest.mark.parametrize("packed", [False, True])
def test_two_hundred_ragged_rounds_compile_few_versions(packed):
    settings = LoraSettings(r=2, alpha=4, targets=["c_attn"])
    model, count = LanguageModel(tiny.base_model("gpt2"), settings), ROUNDS[packed]
    model.pack(packed)
    wanted = list(rounds(model, count))
    seen = []
    with compiled(model) as graphs:
        for got, expected in zip(rounds(model, count), wanted, strict=True):
            assert relative_error(got, expected) < 1e-4
            seen.append(len(graphs))
    assert 4 < seen[-1] <= MOST[packed]
    assert seen[count // 2] == seen[-1]
