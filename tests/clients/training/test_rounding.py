"""Stack size, block size, order, precision and device change a cohort's sum by rounding only."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers import lanes, tiny
from helpers.cohort_sums import clipped, relative_error, setting
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.clients.training import cohort_update, memory


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("steps", [1, 2])
def test_stack_size_block_size_and_order_change_the_sum_by_float32_rounding(family, steps):
    model, adapter = setting(family)
    units = tiny.ragged_units(9)
    wanted = clipped(model, adapter, units, steps=steps).total
    for sizes in ({"max_tokens": 7}, {"max_lanes": 2}, {"max_tokens": 40, "max_lanes": 4}):
        for order in (units, units[::-1]):
            got = clipped(model, adapter, order, steps=steps, **sizes).total
            assert relative_error(got, wanted) < 1e-6
    assert relative_error(clipped(model, adapter, units[1:], steps=steps).total, wanted) > 1e-3


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_bfloat16_base_changes_a_units_update_by_its_rounding(family):
    """8 bits of mantissa, some dozen layers: a percent or two, nowhere near another unit's."""
    (exact, adapter), (rounded, _) = setting(family), setting(family, torch.bfloat16)
    units = tiny.ragged_units(6)
    wanted = clipped(exact, adapter, units, clip_norm=1e9).total
    got = clipped(rounded, adapter, units, clip_norm=1e9)
    assert got.total.dtype == np.float64
    assert 1e-6 < relative_error(got.total, wanted) < 3e-2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_chosen_stack_fits_and_the_sum_is_the_cpus():
    cpu, adapter = setting()
    units = tiny.ragged_units(9)
    wanted = clipped(cpu, adapter, units).total
    gpu = LanguageModel(tiny.base_model("gpt2").cuda(), LoraSettings(r=3, alpha=6))
    engine = memory.fitted(gpu, 32, None, None)
    local = cohort_update.LocalTraining(lr=0.3)
    got = cohort_update.cohort_sum(
        gpu, adapter.cuda(), units, clip_norm=0.5, local=local, engine=engine
    )
    assert relative_error(got.total, wanted) < 1e-4
    assert engine.max_tokens >= 31


def test_a_blocks_loss_does_not_depend_on_how_it_is_cut():
    model, adapter = setting()
    units = tiny.ragged_units(5)
    whole = lanes.block_updates(model, adapter, units, cohort_update.LocalTraining(), 10**6)[1]
    cut = lanes.block_updates(model, adapter, units, cohort_update.LocalTraining(), 9)[1]
    assert float(cut) == pytest.approx(float(whole), rel=1e-5)
