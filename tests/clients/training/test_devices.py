"""Blocks that are spread over several devices add up to what one device computes."""

from __future__ import annotations

import random
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers import replicas, tiny, tiny_classes
from helpers.cohort_sums import relative_error, setting
from userdp.clients.models import acceleration
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.clients.training import cohort_update, memory, spread
from userdp.clients.training.memory import EngineSettings

# So many units that blocks of at most LANES are the same for one device and for three.
UNITS, LANES = 26, 2


def summed(model, adapter, units, engine, *, steps=1, **options):
    local = cohort_update.LocalTraining(steps=steps, lr=0.3)
    return cohort_update.cohort_sum(
        model, adapter, units, local=local, engine=engine, **{"clip_norm": 0.5} | options
    )


def working():
    """How many threads of devices there are."""
    return sum(thread.name == spread.THREAD for thread in threading.enumerate())


def check_equal(one, other):
    """All parts of two sums are equal bit by bit."""
    assert np.array_equal(one.total, other.total)
    assert one.figures == other.figures
    assert one.unclipped_bits == other.unclipped_bits
    assert (one.rows is None) == (other.rows is None)
    assert one.rows is None or np.array_equal(one.rows, other.rows)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"steps": 3},
        {"keep_rows": True},
        {"count_unclipped": True, "clip_norm": 0.1},
        {"grid": 2.0**-20},
        {"grid": 2.0**-20, "keep_rows": True},
        {"scale": 0.5},
    ],
)
@pytest.mark.parametrize("devices", [2, 3])
def test_for_the_same_blocks_the_sum_is_that_of_one_device_bit_by_bit(devices, options):
    model, adapter = setting()
    if "scale" in options:
        options = options | {"scale": torch.full_like(adapter, options["scale"])}
    units = tiny.ragged_units(UNITS)
    one, several = (
        summed(model, adapter, units, replicas.engine(model, n, max_lanes=LANES), **options)
        for n in (1, devices)
    )
    check_equal(one, several)


@pytest.mark.parametrize("family", ["llama", "gemma2", "opt", "gpt_neox", "qwen3"])
def test_other_families_too_with_checkpointing(family):
    model, adapter = setting(family)
    acceleration.checkpoint(model.module, True)
    units = tiny.ragged_units(UNITS)
    engines = [replicas.engine(model, n, max_lanes=LANES) for n in (1, 3)]
    check_equal(*(summed(model, adapter, units, engine) for engine in engines))


@pytest.mark.parametrize("family", ["gpt2", "roberta"])
def test_classifiers_too(family):
    lora = LoraSettings(r=2, alpha=4)
    model = LanguageModel(tiny_classes.base_model(family), lora, tiny_classes.CLASSES)
    units = tiny.ragged_units(UNITS)
    for record in (record for unit in units for record in unit):
        record[:-1], record[-1] = ~record[:-1], record[-1] % tiny_classes.CLASSES
    engines = [replicas.engine(model, n, max_lanes=LANES) for n in (1, 2)]
    check_equal(*(summed(model, model.initial, units, engine) for engine in engines))


@pytest.mark.parametrize("count", [0, 1, 2, 40])
def test_for_other_blocks_it_is_equal_to_rounding(count):
    model, adapter = setting()
    units = tiny.ragged_units(count)
    one = summed(model, adapter, units, replicas.engine(model, 1), count_unclipped=True)
    several = summed(model, adapter, units, replicas.engine(model, 3), count_unclipped=True)
    assert count == 0 or relative_error(several.total, one.total) < 1e-6
    assert several.unclipped_bits == one.unclipped_bits
    assert several.figures == pytest.approx(one.figures, rel=1e-6)
    assert one.total.any() == several.total.any() == bool(count)


def test_a_failed_unit_contributes_zero_and_is_counted_on_whichever_device():
    model, adapter = setting()
    units = tiny.ragged_units(UNITS)
    unknown = [np.array([1, tiny.VOCABULARY, 2])]
    wanted = summed(model, adapter, units, replicas.engine(model, 1, max_lanes=LANES))
    engine = replicas.engine(model, 3, max_lanes=LANES)
    got = summed(model, adapter, [*units[:5], unknown, [], *units[5:]], engine)
    assert got.figures == wanted.figures | {"failed_units": 1.0}
    assert np.array_equal(got.total, wanted.total)


def slowed(monkeypatch, models, seed):
    """Each pass takes another time, so that blocks are ready in another order."""
    chance = random.Random(seed)
    for model in models:

        def late(*given, compute=model.gradients):
            time.sleep(chance.choice([0, 0, 0.002, 0.01]))
            return compute(*given)

        monkeypatch.setattr(model, "gradients", late)


def test_timing_changes_no_bit(monkeypatch):
    model, adapter = setting("llama")
    units = tiny.ragged_units(36)
    engine = replicas.engine(model, 3, max_lanes=2)
    wanted = summed(model, adapter, units, engine, keep_rows=True)
    for seed in range(4):
        with monkeypatch.context() as patch:
            slowed(patch, engine.models, seed)
            check_equal(summed(model, adapter, units, engine, keep_rows=True), wanted)


@pytest.mark.slow
def test_many_rounds_without_pauses_are_equal():
    """A state that threads share by mistake shows sooner or later."""
    model, adapter = setting("llama")
    acceleration.checkpoint(model.module, True)
    units = tiny.ragged_units(12)
    engine = replicas.engine(model, 4, max_lanes=1)
    wanted = summed(model, adapter, units, replicas.engine(model, 1, max_lanes=1), steps=2)
    for _ in range(5):
        check_equal(summed(model, adapter, units, engine, steps=2), wanted)


def test_in_bfloat16_a_unit_has_one_update_beside_others_and_alone():
    model, adapter = setting("llama", dtype=torch.bfloat16)
    units = tiny.ragged_units(12)
    engine = replicas.engine(model, 2, max_lanes=3)
    rows = summed(model, adapter, units, engine, keep_rows=True).rows
    for unit in units[:4]:
        [alone] = summed(model, adapter, [unit], engine, keep_rows=True).rows
        assert (rows == alone).all(1).any()


def test_devices_work_at_the_same_time_on_one_block_each(monkeypatch):
    model, adapter = setting()
    engine = replicas.engine(model, 2, max_lanes=1)
    busy, most, both = {}, {}, threading.Barrier(2)
    updates = cohort_update.block_updates

    def counted(model, *rest):
        busy[id(model)] = busy.get(id(model), 0) + 1
        most[id(model)] = max(most.get(id(model), 0), busy[id(model)])
        both.wait(10)  # passes only while two blocks are being computed
        try:
            return updates(model, *rest)
        finally:
            busy[id(model)] -= 1

    monkeypatch.setattr(cohort_update, "block_updates", counted)
    summed(model, adapter, tiny.ragged_units(10), engine)
    assert most == {id(one): 1 for one in engine.models}


class Full:
    """Gradients on a device whose memory holds ``positions``."""

    def __init__(self, model, positions):
        self.compute, self.positions, self.sizes = model.gradients, positions, []

    def __call__(self, adapters, batch, *rows):
        self.sizes.append(batch.inputs.numel())
        if self.sizes[-1] > self.positions:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.compute(adapters, batch, *rows)


def test_where_one_device_runs_out_of_memory_its_stacks_are_halved_and_nothing_is_lost(monkeypatch):
    model, adapter = setting()
    units = tiny.ragged_units(40)
    wanted = summed(model, adapter, units, replicas.engine(model, 1)).total
    engine = replicas.engine(model, 2, max_tokens=200, max_lanes=4)
    small, large = Full(engine.models[1], 40), Full(model, 10**6)
    monkeypatch.setattr(engine.models[1], "gradients", small)
    monkeypatch.setattr(model, "gradients", large)
    got = summed(model, adapter, units, engine)
    assert relative_error(got.total, wanted) < 1e-6
    assert got.figures["cohort_size"] == len(units)
    assert max(small.sizes) > 40 >= engine.max_tokens
    assert large.sizes


def test_a_record_that_fits_on_no_device_is_one_error_and_no_thread_stays(monkeypatch, caplog):
    model, adapter = setting()
    engine = replicas.engine(model, 3, max_lanes=1)
    for one in engine.models:
        monkeypatch.setattr(one, "gradients", Full(one, 0))
    with pytest.raises(MemoryError, match=r"engine\.checkpointing=true"):
        summed(model, adapter, tiny.ragged_units(30), engine)
    assert not working()


def test_an_error_of_one_device_ends_the_round(monkeypatch):
    model, adapter = setting()
    engine = replicas.engine(model, 2, max_lanes=1)

    def broken(*given):
        raise ZeroDivisionError

    monkeypatch.setattr(engine.models[1], "gradients", broken)
    with pytest.raises(ZeroDivisionError):
        summed(model, adapter, tiny.ragged_units(30), engine)
    assert not working()


def test_settings_with_devices_of_another_model_are_refused():
    (model, adapter), (other, _) = setting(), setting()
    with pytest.raises(ValueError, match="serve one model"):
        summed(model, adapter, tiny.ragged_units(2), replicas.engine(other, 2))


def test_several_devices_get_the_sizes_of_the_smallest(monkeypatch):
    model, _ = setting()
    models = replicas.engine(model, 3).models
    lane = 4 * model.layout.size * 4  # bytes
    monkeypatch.setattr(memory, "free_bytes", lambda device: 4 * 30.5 * lane)
    fitted = memory.fitted(model, 32, None, None, models[1:])
    assert fitted.max_lanes == 10  # a third each of what they share
    assert list(fitted.models) == list(models)
    assert memory.fitted(model, 32, None, None).max_lanes == 30
    assert not memory.fitted(model, 32, None, None).models
    sizes = dict(zip(map(id, models), [(300, 9), (100, 7), (200, 5)], strict=True))
    monkeypatch.setattr(memory, "_fits", lambda one, *_: sizes[id(one)])
    least = memory.fitted(model, 32, None, None, models[1:])
    assert (least.max_tokens, least.max_lanes) == (100, 5)


def test_passes_that_may_compile_hold_the_lock_and_release_it_when_memory_runs_out():
    engine = EngineSettings(turns=threading.Lock())
    batch = SimpleNamespace(inputs=torch.zeros(4, 3), divisible=True)
    assert engine.attempt(engine.turns.locked, batch)

    def full():
        raise torch.OutOfMemoryError("CUDA out of memory.")

    assert engine.attempt(full, batch) is None
    assert not engine.turns.locked()


@pytest.mark.slow
@pytest.mark.trust
def test_compiled_layers_on_several_devices():
    """Captured and differentiated ahead of time, in the threads, one thread at a time."""
    model, adapter = setting()
    units = tiny.ragged_units(8)
    wanted = summed(model, adapter, units, replicas.engine(model, 1)).total
    engine = replicas.engine(model, 2)
    engine.turns = threading.Lock()
    for one in engine.models:
        acceleration.compile_layers(one.module, True, backend="aot_eager")
    for _ in range(3):
        assert relative_error(summed(model, adapter, units, engine).total, wanted) < 1e-5
