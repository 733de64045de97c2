"""The GPU case on a CPU: its checks find planted faults, and it measures what it has time for."""

from __future__ import annotations

import importlib.util

import pytest

from helpers.quantized import library
from userdp.analysis.benchmark import command, gpu_case, gpu_checks
from userdp.analysis.benchmark.processes import SideError
from userdp.clients.kernels import lane_products
from userdp.clients.models import stacked_lora
from userdp.clients.quantization import quantization, quantized_linear
from userdp.server.mechanisms import noise_grid
from userdp.sim.common.errors import ConfigurationError

LANES, PACKED = "lane gradients are those of plain peft, float32", "packed rows give what"
LARGE = "Llama 8B shape, base in 4 bits"
LIBRARIES = ("torchao", "bitsandbytes")
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

    def wrong(one, two, starts, out=None):
        one = one.clone()
        one[0] = 0
        return right(one, two, starts, out)

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


def test_a_quantised_layer_with_another_gradient_is_found(monkeypatch):
    library("torchao")
    right = quantized_linear._RowScaled.backward

    def wrong(ctx, dy):
        return 0.8 * right(ctx, dy)[0], None, None, None

    monkeypatch.setattr(quantized_linear._RowScaled, "backward", staticmethod(wrong))
    check = "lane gradients over a base in int8 are those of plain peft"
    assert [name for name in failed() if name.startswith(check)] == [
        f"{check}, float32",
        f"{check}, bfloat16",
    ]


def measured(monkeypatch, words, answer, missing=()):
    find = importlib.util.find_spec
    monkeypatch.setattr(gpu_checks, "run", lambda device: {"one": HOLDS})
    monkeypatch.setattr(
        quantization.importlib.util,
        "find_spec",
        lambda name: None if name in missing else find("json" if name in LIBRARIES else name),
    )
    return gpu_case.run(words, answer)


def test_on_a_cpu_all_parts_are_tiny_and_one_needs_a_file(monkeypatch):
    asked = []
    results = measured(monkeypatch, ["device=cpu"], lambda options: asked.append(options) or {})
    assert len(asked) == len(gpu_case._PARTS) - 1 == len(results["parts"])
    assert all(options.width <= 32 and options.device == "cpu" for options in asked)
    assert [(one.quantize, one.kv_heads) for one in asked if one.quantize] == [("int8", 1)]
    assert results["parts"][LARGE]["left_out"] == [gpu_case._PARTS[LARGE].without]
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


@pytest.mark.parametrize(
    ("free", "missing", "reason"),
    [
        (80e9, (), None),
        (40e9, (), "50 GB are needed, 40 are free"),
        (80e9, ("bitsandbytes",), "bitsandbytes is not installed"),
    ],
)
def test_the_large_part_begins_where_library_and_memory_are_there(
    monkeypatch, free, missing, reason
):
    monkeypatch.setattr(gpu_case, "_free_bytes", lambda device: free)
    asked = []
    words = ["device=cuda", "seconds=9999"]
    results = measured(monkeypatch, words, lambda one: asked.append(one) or {}, missing)
    assert (LARGE in results["parts"]) == (reason is None)
    assert reason is None or results["left_out"][LARGE].startswith(reason)
    large = [one for one in asked if one.quantize]
    assert [(one.kv_heads, one.vocabulary, one.dtype) for one in large] == (
        [(8, 128256, "bfloat16")] if reason is None else []
    )


def test_no_memory_is_free_where_torch_sees_no_card(monkeypatch):
    monkeypatch.setattr(gpu_case.torch.cuda, "is_available", lambda: False)
    assert gpu_case._free_bytes("cuda") == 0


@pytest.mark.slow
def test_the_large_part_runs_at_a_tiny_size_on_a_cpu(monkeypatch, capsys):
    """Processes of both sides, whose base models are quantised, and its line in the table."""
    library("torchao")
    monkeypatch.setattr(gpu_checks, "run", lambda device: {"one": HOLDS})
    monkeypatch.setattr(gpu_case, "_PARTS", {LARGE: gpu_case._PARTS[LARGE]})
    command.main(["case=gpu", "device=cpu"])
    shown = capsys.readouterr().out
    assert "left out" not in shown
    assert LARGE in shown
    assert "stock peft is not timed" in shown


def test_nothing_is_timed_where_a_check_fails(monkeypatch):
    checks = {"one": HOLDS, "two": {"holds": False, "measured": 0.3}}
    monkeypatch.setattr(gpu_checks, "run", lambda device: checks)
    with pytest.raises(ConfigurationError, match=r"does not hold that two \(measured 0.3\)"):
        gpu_case.run(["device=cpu"], None)


def test_wrong_options_are_refused_by_name():
    with pytest.raises(ConfigurationError, match=r"bench case=gpu .*no such option"):
        gpu_case.run(["users=3"], None)
