"""The GPU case on a CPU: its checks find planted faults, and it measures what it has time for."""

from __future__ import annotations

import pytest

from userdp.analysis.benchmark import gpu_case, gpu_checks
from userdp.analysis.benchmark.processes import SideError
from userdp.clients.kernels import lane_products
from userdp.clients.models import stacked_lora
from userdp.server.mechanisms import noise_grid
from userdp.sim.common.errors import ConfigurationError

LANES, PACKED = "lane gradients are those of plain peft, float32", "packed rows give what"
HOLDS = {"holds": True, "measured": 0.0}


def failed(device="cpu"):
    return [name for name, found in gpu_checks.run(device).items() if not found["holds"]]


def test_on_a_cpu_every_check_holds():
    assert failed() == []


def test_lanes_that_get_each_others_gradients_are_found(monkeypatch):
    right = stacked_lora.torch.bmm

    def wrong(first, second):
        product = right(first, second)
        return product.flip(0) if first.shape[0] > 1 else product

    monkeypatch.setattr(stacked_lora.torch, "bmm", wrong)
    assert LANES in failed()


def test_a_product_by_lane_that_drops_a_position_is_found(monkeypatch):
    right = lane_products.by_lane

    def wrong(one, two, starts):
        one = one.clone()
        one[0] = 0
        return right(one, two, starts)

    monkeypatch.setattr(lane_products, "by_lane", wrong)
    assert [name for name in failed() if name.startswith(PACKED)]


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_noise_of_another_scale_is_found(monkeypatch, factor):
    right = noise_grid.noised
    monkeypatch.setattr(
        noise_grid,
        "noised",
        lambda total, std, *rest, **more: right(total, factor * std, *rest, **more),
    )
    assert failed() == ["noise has the scale that is accounted"]


def measured(monkeypatch, words, answer):
    monkeypatch.setattr(gpu_checks, "run", lambda device: {"one": HOLDS})
    return gpu_case.run(words, answer)


def test_on_a_cpu_all_parts_are_tiny_and_one_needs_a_file(monkeypatch):
    asked = []
    results = measured(monkeypatch, ["device=cpu"], lambda options: asked.append(options) or {})
    assert len(asked) == len(gpu_case._PARTS) - 1 == len(results["parts"])
    assert all(options.width <= 32 and options.device == "cpu" for options in asked)
    assert list(results["left_out"]) == [gpu_case._REAL]
    assert all(options.sides[0] == "round" for options in asked)


def test_what_does_not_fit_into_the_time_or_the_memory_is_left_out_by_name(monkeypatch):
    def answer(options):
        raise SideError("round: out of memory")

    nothing = measured(monkeypatch, ["device=cuda", "seconds=1"], answer)
    assert nothing["parts"] == {}
    assert "seconds are needed" in nothing["left_out"]["GPT-2 small, users of 4 x 256"]
    full = measured(monkeypatch, ["device=cuda", "seconds=9999"], answer)
    assert full["left_out"]["Llama 1B shape, users of 4 x 256"] == "round: out of memory"


def test_nothing_is_timed_where_a_check_fails(monkeypatch):
    checks = {"one": HOLDS, "two": {"holds": False, "measured": 0.3}}
    monkeypatch.setattr(gpu_checks, "run", lambda device: checks)
    with pytest.raises(ConfigurationError, match=r"does not hold that two \(measured 0.3\)"):
        gpu_case.run(["device=cpu"], None)


def test_wrong_options_are_refused_by_name():
    with pytest.raises(ConfigurationError, match=r"bench case=gpu .*no such option"):
        gpu_case.run(["users=3"], None)
