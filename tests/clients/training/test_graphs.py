"""Rounds whose layers are CUDA graphs: shapes are few, and weights stay where they are in memory.

No graph is recorded without a GPU. A backend takes torch's place and keeps what its graphs depend
on: the shapes of a compiled layer, and the addresses of the inputs that torch takes for weights.
"""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from helpers import tiny
from helpers.cohort_sums import relative_error, setting
from userdp.clients.batching import packing
from userdp.clients.batching.fixed_shapes import FixedShapes
from userdp.clients.models import acceleration
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.clients.training import cohort_update
from userdp.clients.training.memory import EngineSettings
from userdp.sim.common.errors import ConfigurationError

WIDTHS = 4  # padded lengths of records of up to 39 tokens: 16, 24, 32 and 48 positions
# Of each: lanes that share an adapter or have their own, for the first layer and for the others.
MOST = 4 * WIDTHS


def is_weight(node):
    """Whether torch takes a graph's input for one that stays where it is."""
    return "_dynamo_static_input_type" in node.meta.get("tensor_dict", {})


class Recorder:
    """A backend that keeps each graph, and each set of addresses that a graph was called with."""

    def __init__(self):
        self.graphs, self.recordings = [], set()

    def __call__(self, graph, inputs):
        number = len(self.graphs)
        self.graphs.append(graph)
        places = [node for node in graph.graph.nodes if node.op == "placeholder"]
        fixed = [index for index, node in enumerate(places) if is_weight(node)]

        def call(*values):
            # A tensor's sizes are part of what was compiled; a weight's address of the recording.
            addresses = [values[index].data_ptr() for index in fixed]
            self.recordings.add((number, *addresses))
            return graph.forward(*values)

        return call


@contextlib.contextmanager
def recorded(model):
    recorder = Recorder()
    torch._dynamo.reset()
    model.graphs = True  # as `compile` sets it on a GPU
    acceleration.compile_layers(model.module, acceleration.GRAPHS, backend=recorder)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield recorder
    acceleration.compile_layers(model.module, False)
    model.graphs = False
    torch._dynamo.reset()


def rounds(model, count, moved=1e-4):
    """Sums of rounds over ragged cohorts; every round has its own adapter, in its own memory."""
    source, engine = np.random.default_rng(0), EngineSettings(max_tokens=64, max_lanes=4)
    for number in range(count):
        longest, size = int(source.integers(2, 40)), int(source.integers(1, 7))
        local = cohort_update.LocalTraining(steps=1 + number % 2, lr=0.1)
        units = tiny.ragged_units(size, seed=number, longest=longest)
        adapter = model.initial + moved * number
        yield cohort_update.cohort_sum(
            model, adapter, units, clip_norm=0.5, local=local, engine=engine
        ).total


def small(family="gpt2"):
    targets = ["c_attn"] if family == "gpt2" else ["q_proj"]
    return LanguageModel(tiny.base_model(family), LoraSettings(r=2, alpha=4, targets=targets))


def check(count):
    """Rounds give what they give uncompiled, from few graphs and recordings.

    Returns:
        Graphs and recordings after each round.
    """
    model, seen = small(), []
    wanted = list(rounds(model, count))
    with recorded(model) as recorder:
        for got, expected in zip(rounds(model, count), wanted, strict=True):
            assert relative_error(got, expected) < 1e-4
            seen.append((len(recorder.graphs), len(recorder.recordings)))
    places = [node for graph in recorder.graphs for node in graph.graph.nodes]
    leaves = [node for node in places if node.name.endswith(("_c_attn_a", "_c_attn_b"))]
    assert len(leaves) == 2 * len(recorder.graphs)
    assert all(map(is_weight, leaves))  # else nothing was learned of their addresses
    assert 4 <= seen[-1][0] <= MOST
    return seen


@pytest.mark.slow
def test_some_rounds_record_as_often_as_there_are_shapes_and_layers():
    graphs, recordings = check(24)[-1]
    # Each of the two layers has graphs of its own. Adapters that differ by lane move when more
    # lanes come.
    assert graphs <= recordings <= 2 * graphs


@pytest.mark.slow
@pytest.mark.trust
def test_two_hundred_ragged_rounds_record_few_graphs():
    seen = check(200)
    assert seen[len(seen) // 2] == seen[-1]


@pytest.mark.slow
def test_leaves_in_new_memory_would_be_recorded_in_every_round(monkeypatch):
    """What the count is there for: the adapters of a round as they come, and not held."""
    monkeypatch.setattr(acceleration.StillAdapters, "put", lambda self, adapters: adapters.clone())
    kept = []
    monkeypatch.setattr(acceleration, "begin_pass", lambda: kept.append(torch.empty(10_000)))
    model = small()
    with recorded(model) as recorder:
        list(rounds(model, 12))
    assert len(recorder.recordings) > 3 * len(recorder.graphs)


@pytest.mark.parametrize(("longest", "widths"), [(39, WIDTHS), (1024, 13), (4096, 17)])
def test_padded_lengths_grow_with_the_logarithm_of_the_longest_record(longest, widths):
    shapes = FixedShapes(longest=None, positions=512)
    assert len({shapes.width(length) for length in range(2, longest + 1)}) == widths


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_stacks_have_one_shape_for_each_padded_length_in_float32_too(family):
    model, adapter = setting(family)
    units = tiny.ragged_units(40, longest=40)
    local, engine = cohort_update.LocalTraining(lr=0.1), EngineSettings(max_tokens=64)
    wanted = cohort_update.cohort_sum(
        model, adapter, units, clip_norm=0.5, local=local, engine=engine
    )
    model.graphs = True
    shapes = {stack.tokens.shape for stack in model.stacks(units, 64)}
    assert len(shapes) <= WIDTHS
    assert len({stack.tokens.shape for stack in packing.stacks(units, 64)}) > 2 * WIDTHS
    got = cohort_update.cohort_sum(model, adapter, units, clip_norm=0.5, local=local, engine=engine)
    assert relative_error(got.total, wanted.total) < 1e-5


def test_graphs_on_a_cpu_and_packed_rows_beside_them_are_refused_by_name():
    model = small("llama")
    with pytest.raises(ConfigurationError, match=r"engine\.compile=graphs: only a GPU"):
        model.compile(acceleration.GRAPHS)
    assert model.shapes is None
    model.graphs = True
    with pytest.raises(ConfigurationError, match=r"engine\.packed=true engine\.compile=graphs"):
        model.pack(True)


def test_evaluation_is_not_compiled_and_another_way_replaces_the_first():
    model, adapter = setting("llama")
    [stack] = packing.stacks(tiny.ragged_units(2), 10**6)
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    acceleration.compile_layers(model.module, acceleration.GRAPHS, backend=backend)
    model.token_losses(adapter, model.load(stack))
    assert calls == []
    layer = next(one for one in model.module.modules() if one._compiled_call_impl)
    before = layer._compiled_call_impl
    acceleration.compile_layers(model.module, acceleration.GRAPHS, backend=backend)
    assert layer._compiled_call_impl is before
    acceleration.compile_layers(model.module, True, backend=backend)
    assert layer._compiled_call_impl is not before
