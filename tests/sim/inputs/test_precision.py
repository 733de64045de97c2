"""The precision of ``auto``: nothing of a checkpoint is lost, and bfloat16 has to pay."""

from __future__ import annotations

import json

import pytest
import torch

from helpers import tiny
from userdp.sim.inputs import precision

GPU, CPU = torch.device("cuda"), torch.device("cpu")


def test_on_a_gpu_auto_is_bfloat16_where_the_gpu_has_it(monkeypatch):
    for has_it, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has_it=has_it: has_it)
        assert precision.dtype("auto", GPU) == expected


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16, None])
@pytest.mark.parametrize("pays", [True, False])
def test_on_a_cpu_auto_is_bfloat16_where_16_bits_are_stored_and_it_pays(monkeypatch, stored, pays):
    monkeypatch.setattr(precision, "bfloat16_pays", lambda: pays)
    short = stored in (torch.bfloat16, torch.float16)
    wanted = torch.bfloat16 if short and pays else torch.float32
    assert precision.dtype("auto", CPU, stored) == wanted


@pytest.mark.parametrize("where", [GPU, CPU])
def test_a_named_precision_is_taken_as_it_is(where):
    assert precision.dtype("bfloat16", where, torch.float32) == torch.bfloat16
    assert precision.dtype("float32", where, torch.bfloat16) == torch.float32


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_the_stored_precision_is_that_of_the_saved_tensors(tmp_path, stored):
    tiny.base_model("llama").to(stored).save_pretrained(tmp_path)
    assert precision.stored(tmp_path, None) == stored
    assert precision.stored(tmp_path / "none", None) is None


def test_the_measurement_is_made_once_and_decides(monkeypatch, tmp_path):
    monkeypatch.setenv("USERDP_CACHE", str(tmp_path))
    measured = []
    for ratio, pays in ((0.5, True), (1.7, False)):
        monkeypatch.setattr(precision, "VERSION", ratio)
        monkeypatch.setattr(
            precision, "_ratio", lambda ratio=ratio: measured.append(ratio) or ratio
        )
        assert [precision.bfloat16_pays() for _ in range(3)] == [pays] * 3
    assert measured == [0.5, 1.7]


def test_the_ratio_is_that_of_the_clock(monkeypatch):
    """A clock that runs 0.1 s in each product in float32, and 0.03 s in bfloat16."""
    now, product = [0.0], torch.mm

    def slow(left, right):
        now[0] += 0.03 if left.dtype == torch.bfloat16 else 0.1
        return product(left, right)

    monkeypatch.setattr(torch, "mm", slow)
    monkeypatch.setattr(precision.time, "perf_counter", lambda: now[0])
    assert json.loads(json.dumps(precision._ratio())) == pytest.approx(0.3)
