"""The update of a unit equals what plain peft computes for this unit alone; sums of updates."""

from __future__ import annotations

import copy
import math
import sys
import types

import numpy as np
import pytest
import torch

from helpers import cohort_sums, lanes, tiny
from helpers.cohort_sums import relative_error
from helpers.plain_updates import peft_update
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.clients.training import clipping, cohort_update
from userdp.clients.training.memory import EngineSettings
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.protocol import messages

FAMILIES = ["gpt2", "llama", "opt", "gpt_neox", "qwen2", "qwen3", "gemma2"]


def setting(family, targets="all-linear"):
    base = tiny.base_model(family)
    model = LanguageModel(copy.deepcopy(base), LoraSettings(r=3, alpha=6, targets=targets))
    generator = torch.Generator().manual_seed(1)
    adapter = model.initial + 0.1 * torch.randn(model.layout.size, generator=generator)
    return base, model, adapter


@pytest.mark.parametrize("family", FAMILIES)
def test_a_units_update_equals_plain_peft_alone(family):
    base, model, adapter = setting(family)
    units = tiny.ragged_units(5)
    got, _ = lanes.block_updates(
        model, adapter, units, cohort_update.LocalTraining(), max_tokens=50
    )
    wanted = torch.stack([peft_update(base, model, adapter, unit) for unit in units])
    for row, oracle in zip(got, wanted, strict=True):
        assert relative_error(row, oracle) < 1e-5


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_an_update_with_prompts_equals_plain_peft_with_labels_left_out(family):
    base, model, adapter = setting(family)
    units = tiny.masked_units(5, seed=3)
    got, _ = lanes.block_updates(
        model, adapter, units, cohort_update.LocalTraining(), max_tokens=50
    )
    for row, unit in zip(got, units, strict=True):
        assert relative_error(row, peft_update(base, model, adapter, unit)) < 1e-5
        if any((record < 0).sum() > 1 for record in unit):  # a first token is never predicted
            unmasked = [np.where(record < 0, ~record, record) for record in unit]
            assert relative_error(row, peft_update(base, model, adapter, unmasked)) > 1e-2


@pytest.mark.parametrize("steps", [2, 3])
def test_local_steps_equal_plain_sgd_alone(steps):
    base, model, adapter = setting("gpt2")
    units = tiny.ragged_units(4)
    local = cohort_update.LocalTraining(steps=steps, lr=0.3)
    got, _ = lanes.block_updates(model, adapter, units, local, max_tokens=64)
    for row, unit in zip(got, units, strict=True):
        assert relative_error(row, peft_update(base, model, adapter, unit, steps, 0.3)) < 1e-4


def per_step_clipped(base, model, adapter, unit, steps, lr, clip_norm):
    """A different algorithm: the gradient of every step is clipped, and clipped steps are added."""
    at = adapter
    for _ in range(steps):
        step = peft_update(base, model, at, unit, 1, lr)
        at = at + step * (clip_norm / step.norm()).clamp(max=1.0)
    return at - adapter


def test_the_difference_of_all_local_steps_is_clipped_once():
    """DP-FedAvg: one clip of the whole update, whatever the number of steps."""
    base, model, adapter = setting("gpt2")
    units, steps, lr = tiny.ragged_units(4), 3, 0.3
    moved = torch.stack([peft_update(base, model, adapter, u, steps, lr) for u in units]).double()
    clip_norm = 0.6 * float(moved.norm(dim=1).min())
    wanted = (moved * (clip_norm / moved.norm(dim=1, keepdim=True))).sum(dim=0)
    local, engine = cohort_update.LocalTraining(steps=steps, lr=lr), EngineSettings()
    got = cohort_update.cohort_sum(
        model, adapter, units, clip_norm=clip_norm, local=local, engine=engine
    ).total
    assert relative_error(got, wanted) < 1e-4
    otherwise = [per_step_clipped(base, model, adapter, u, steps, lr, clip_norm) for u in units]
    assert relative_error(sum(otherwise), wanted) > 1e-2


@pytest.mark.parametrize("max_lanes", [1, 2, 100])
def test_every_unit_starts_from_the_global_adapter(max_lanes):
    """In several blocks of several local steps, and in a second round."""
    base, model, adapter = setting("gpt2")
    units, local = tiny.ragged_units(5), cohort_update.LocalTraining(steps=3, lr=0.3)
    wanted = sum(peft_update(base, model, adapter, unit, 3, 0.3) for unit in units)
    engine = EngineSettings(max_tokens=64, max_lanes=max_lanes)
    for _ in range(2):
        got = cohort_update.cohort_sum(
            model, adapter, units, clip_norm=math.inf, local=local, engine=engine
        )
        assert relative_error(got.total, wanted) < 1e-4


def test_in_the_next_round_local_steps_start_at_the_new_global_adapter(tmp_path):
    mechanism = UserWise(
        users=4, cohort=4, records_per_user=0, clip_norm=0.05, noise_multiplier=0.5
    )
    run = tiny.federation(
        tmp_path,
        mechanism,
        tiny.people(4),
        cohort=tiny.everyone(4),
        nodes=2,
        local_steps=2,
        local_lr=0.3,
        max_tokens=32,
    )
    run.run(2)
    model = run.host.model
    started = [m for m in run.grid.sent if m.metadata.group_id == "2"]
    adapter = torch.from_numpy(model.layout.to_vector(messages.read_train(started[0])[0]))
    assert relative_error(adapter, model.initial) > 1e-2
    wanted = torch.zeros(model.layout.size, dtype=torch.float64)
    for unit in tiny.ragged_units(4):
        moved = peft_update(tiny.base_model("gpt2"), model, adapter, unit, 2, 0.3).double()
        wanted += moved * (0.05 / moved.norm()).clamp(max=1.0)
    assert relative_error(run.total, wanted) < 1e-4


def test_named_targets_are_the_only_ones_adapted():
    _, model, _ = setting("gpt2", targets=["c_attn"])
    assert all(".c_attn." in name for name, _ in model.layout.shapes)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("clip_norm", [0.05, 1e9])
def test_the_sum_does_not_depend_on_stacks_lanes_or_order(family, clip_norm):
    _, model, adapter = setting(family)
    units = tiny.ragged_units(12)
    cohort_sums.check_the_same_for_any_engine(model, adapter, units, clip_norm)


def test_a_units_update_does_not_depend_on_its_neighbours():
    _, model, adapter = setting("gpt2")
    unit, *others = tiny.ragged_units(7)
    strangers = tiny.ragged_units(6, seed=9, longest=40)
    local = cohort_update.LocalTraining()
    first, _ = lanes.block_updates(model, adapter, [unit, *others], local, 200)
    second, _ = lanes.block_updates(model, adapter, [unit, *strangers], local, 200)
    assert relative_error(first[0], second[0]) < 1e-5


def test_alone_in_its_block_a_units_row_does_not_depend_on_others_to_the_last_bit():
    """The purpose of engine.max_lanes=1, for mechanisms whose test depends on the last bits."""
    _, model, adapter = setting("gpt2")
    units = tiny.ragged_units(5)
    engine = EngineSettings(max_lanes=1)
    run = {
        "clip_norm": 0.1,
        "local": cohort_update.LocalTraining(),
        "engine": engine,
        "keep_rows": True,
    }
    whole = cohort_update.cohort_sum(model, adapter, units, **run).rows
    for left_out in range(5):
        rest = [unit for number, unit in enumerate(units) if number != left_out]
        rows = cohort_update.cohort_sum(model, adapter, rest, **run).rows
        assert all((whole == row).all(1).any() for row in rows)


def test_kept_rows_are_those_summed_and_none_of_a_unit_that_failed_or_is_empty():
    _, model, adapter = setting("gpt2")
    units = [*tiny.ragged_units(4), [], [np.array([1, tiny.VOCABULARY])]]
    engine = EngineSettings(max_lanes=3)
    run = {"clip_norm": 0.1, "local": cohort_update.LocalTraining(), "engine": engine}
    kept = cohort_update.cohort_sum(model, adapter, units, keep_rows=True, **run)
    rows = kept.rows
    assert rows.shape == (4, len(adapter))
    assert rows.dtype == np.float64
    np.testing.assert_allclose(rows.sum(0), kept.total, rtol=0, atol=1e-15)
    assert np.array_equal(kept.total, cohort_update.cohort_sum(model, adapter, units, **run).total)
    assert cohort_update.cohort_sum(model, adapter, units, **run).rows is None
    assert cohort_update.cohort_sum(model, adapter, [], keep_rows=True, **run).rows.shape == (
        0,
        len(adapter),
    )


@pytest.mark.parametrize("unknown", [tiny.VOCABULARY, ~tiny.VOCABULARY], ids=["learned", "given"])
def test_a_failed_unit_contributes_zero_and_is_counted(unknown):
    _, model, adapter = setting("gpt2")
    units = tiny.ragged_units(4)
    poisoned = [*units[:3], [np.array([1, unknown, 2])]]
    run = {"clip_norm": 0.1, "local": cohort_update.LocalTraining(), "engine": EngineSettings()}
    got = cohort_update.cohort_sum(model, adapter, poisoned, **run)
    wanted = cohort_update.cohort_sum(model, adapter, units[:3], **run)
    assert np.array_equal(got.total, wanted.total)
    assert got.figures["failed_units"] == 1


def test_losses_that_are_huge_and_finite_add_up_to_a_finite_figure(monkeypatch):
    """The server refuses a figure that is not finite: no user may bring a round to that."""
    _, model, adapter = setting("gpt2")
    gradients = model.gradients
    huge = torch.tensor(3e38)
    monkeypatch.setattr(model, "gradients", lambda *given: (gradients(*given)[0], huge))
    run = {"clip_norm": 0.1, "local": cohort_update.LocalTraining()}
    engine = EngineSettings(max_tokens=20)  # several stacks of one block
    got = cohort_update.cohort_sum(model, adapter, tiny.ragged_units(4), engine=engine, **run)
    assert math.isfinite(got.figures["train_loss"])
    assert got.figures["train_loss"] > 1e39


def test_an_empty_cohort_sums_to_zero():
    _, model, adapter = setting("gpt2")
    got = cohort_update.cohort_sum(
        model,
        adapter,
        [],
        clip_norm=1.0,
        local=cohort_update.LocalTraining(),
        engine=EngineSettings(),
    )
    assert np.abs(got.total).max() == 0
    assert got.total.shape == (model.layout.size,)


def test_the_base_model_takes_no_gradient_and_no_state():
    _, model, adapter = setting("llama")
    before = {name: p.clone() for name, p in model.module.named_parameters()}
    cohort_update.cohort_sum(
        model,
        adapter,
        tiny.ragged_units(3),
        clip_norm=1.0,
        local=cohort_update.LocalTraining(),
        engine=EngineSettings(),
    )
    assert all(torch.equal(before[n], p) for n, p in model.module.named_parameters())
    assert all(p.grad is None for p in model.module.parameters())


def unclipped(rows, clip_norm, layout):
    """A faulty clip rule of another package: it bounds nothing."""
    count = len(rows)
    return clipping.ClippedSum(rows.sum(0).double(), torch.zeros(count), rows, torch.ones(count, 1))


def test_a_faulty_clip_rule_of_another_package_adds_at_most_c_for_a_unit(monkeypatch):
    monkeypatch.setitem(sys.modules, "some_package", types.SimpleNamespace(rule=unclipped))
    _, model, adapter = setting("gpt2")
    local, engine = cohort_update.LocalTraining(), EngineSettings()
    sums = [
        cohort_update.cohort_sum(
            model, adapter, tiny.ragged_units(1), clip_norm=0.01, local=local, engine=engine,
            clipping_rule=rule, keep_rows=True,
        )
        for rule in ("joint", "some_package.rule")
    ]  # fmt: skip
    assert np.linalg.norm(sums[1].total) <= 0.01
    assert relative_error(sums[1].total, sums[0].total) < 1e-9
    assert relative_error(sums[1].rows, sums[0].rows) < 1e-9
