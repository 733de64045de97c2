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


def with_gpus(monkeypatch, *kinds):
    """A machine with GPUs of these kinds."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(kinds))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: kinds[device.index])


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("cuda:0,cuda:1", ["cuda:0", "cuda:1"]),
        ("cuda:2, cuda:0", ["cuda:2", "cuda:0"]),
        ("cuda,cuda:1", ["cuda:0", "cuda:1"]),
        ("cuda:all", ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda:1", ["cuda:1"]),
        ("cpu", ["cpu"]),
        ("cpu,cpu", ["cpu", "cpu"]),
    ],
)
def test_several_devices_keep_their_order_and_the_first_is_the_device(monkeypatch, name, wanted):
    with_gpus(monkeypatch, "A", "A", "A")
    assert [str(device) for device in devices.several(name)] == wanted
    assert str(devices.device(name)) == wanted[0]


@pytest.mark.parametrize(
    ("name", "kinds", "told"),
    [
        ("cuda:0,cuda:0", "AA", "cuda:0 is named twice"),
        ("cuda,cuda:1,cuda:0", "AA", "cuda:0 is named twice"),
        ("cuda:0,cuda:2", "AA", "this machine has 2 GPUs"),
        ("cuda:all", "", "this machine has 0 GPUs"),
        ("cuda:all", "AB", r"GPUs of different kinds \(A, B\)"),
        ("cuda:0,cuda:1", "AB", r"GPUs of different kinds \(A, B\)"),
        ("cpu,cuda:0", "A", "a CPU and a GPU round differently"),
        ("cuda:0,cpu", "A", "a CPU and a GPU round differently"),
        ("auto,auto", "A", "choose auto, cpu"),
        ("cpu,", "A", "choose auto, cpu"),
        ("cuda:0,cuda:all", "AA", "choose auto, cpu"),
    ],
)
def test_devices_that_are_missing_repeated_or_mixed_are_refused(monkeypatch, name, kinds, told):
    with_gpus(monkeypatch, *kinds)
    with pytest.raises(ConfigurationError, match=f"^device={name}: {told}"):
        devices.several(name)
