"""The device and the precision that a configuration names."""

from __future__ import annotations

import pytest
import torch

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.inputs import devices


@pytest.mark.parametrize(("present", "expected"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_a_gpu_if_there_is_one(monkeypatch, present, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: present)
    assert devices.device("auto").type == expected
    assert devices.device("cpu").type == "cpu"


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:0", ""])
def test_another_name_is_refused(name):
    with pytest.raises(ConfigurationError, match=f"^device={name}: choose auto, cpu"):
        devices.device(name)


@pytest.mark.parametrize(("name", "count"), [("cuda", 0), ("cuda:2", 2)])
def test_a_gpu_that_the_machine_lacks_is_refused(monkeypatch, name, count):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(ConfigurationError, match=f"^device={name}: this machine has {count} GPUs"):
        devices.device(name)


def test_auto_is_bfloat16_only_on_a_gpu_that_has_it(monkeypatch):
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    for has_it, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has_it=has_it: has_it)
        assert devices.dtype("auto", gpu) == expected
        assert devices.dtype("auto", cpu) == torch.float32
    assert devices.dtype("bfloat16", cpu) == torch.bfloat16
    assert devices.dtype("float32", gpu) == torch.float32
