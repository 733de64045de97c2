"""Whole runs on several devices: the same claim and adapter as on one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import small_world
from helpers.whole_runs import adapter, check_refused, ran, stated
from userdp.sim import cli
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import hydra_compose
from userdp.sim.inputs import run_inputs
from userdp.sim.run import prepare, time_estimate
from userdp.sim.sweep.shared_inputs import SharedInputs

pytestmark = pytest.mark.slow  # whole runs

TWO = "device=cpu,cpu"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))


@pytest.mark.parametrize("more", [[], ["strategy=group_privacy", "runtime.nodes=3"]])
def test_a_run_on_two_devices_is_the_run_on_one(more):
    asked = ["privacy.reproducible=true", "cohort=15", *more]
    one, two = ran("one", *asked), ran("two", *asked, TWO)
    assert stated(two)["epsilon"] == stated(one)["epsilon"]
    np.testing.assert_allclose(adapter(two), adapter(one), rtol=1e-4, atol=1e-6)
    assert cli.main(["verify", str(two)]) == 0


@pytest.mark.parametrize(("device", "models"), [("cpu", 1), ("cpu,cpu", 2)])
def test_every_device_is_used(monkeypatch, device, models):
    used = set()
    gradients = run_inputs.LanguageModel.gradients

    def watched(self, adapters, batch, *rest):
        used.add(self)
        return gradients(self, adapters, batch, *rest)

    monkeypatch.setattr(run_inputs.LanguageModel, "gradients", watched)
    ran("run", f"device={device}", "cohort=20")
    assert len(used) == models


def settings(*more: str):
    return hydra_compose.settings(small_world.overrides(*more, "output=out"))[0]


def test_a_sweep_keeps_one_set_of_tensors_for_each_device():
    shared = SharedInputs()
    first, second = (
        prepare.prepare(settings(TWO, f"model.lora.r={r}"), shared.load).engine for r in (1, 2)
    )
    one, other = (list(engine.models[1].module.parameters()) for engine in (first, second))
    assert all(a is b for a, b in zip(one, other, strict=True))
    assert not set(first.models[1].module.modules()) & set(second.models[1].module.modules())


def test_the_expected_time_is_divided_by_different_devices_alone(monkeypatch):
    pace = time_estimate._Pace(training=1.0, scoring=0.0)  # scores are computed on one device
    monkeypatch.setattr(time_estimate, "_pace", lambda *_: pace)
    prepared = prepare.prepare(settings(TWO))
    asked = (prepared.settings, prepared.plan, prepared.inputs, prepared.engine)
    one = time_estimate.minutes(*asked)  # the CPU twice is no faster
    prepared.engine.models[1].device = torch.device("meta")
    assert time_estimate.minutes(*asked) == one / 2


@pytest.mark.parametrize("item", ["device=cpu,cpu", "device='cpu,cpu'", "+device=cpu,cpu"])
def test_commas_are_no_choice_in_a_single_run(item):
    if item.startswith("+"):
        item = item.replace("+", "++")
    assert settings(item).device == "cpu,cpu"


def test_in_a_sweep_commas_are_choices_and_quotes_keep_devices_together():
    assert hydra_compose.jobs(["device=cpu,cuda"]) == [["device=cpu"], ["device=cuda"]]
    [together] = hydra_compose.jobs(["device='cpu,cpu'"])
    assert hydra_compose.settings([*small_world.overrides(), *together])[0].device == "cpu,cpu"


def test_compilation_starts_in_one_thread_at_a_time(monkeypatch):
    monkeypatch.setattr(run_inputs.acceleration, "compile_layers", lambda *_: None)
    for devices, compiled, locked in [
        (TWO, "true", True), (TWO, "false", False), ("device=cpu", "true", False)
    ]:  # fmt: skip
        asked = settings(devices, f"engine.compile={compiled}")
        assert (prepare.prepare(asked).engine.turns is not None) == locked


def test_cuda_graphs_are_refused_on_several_devices_and_without_a_gpu():
    for devices, message in (
        (TWO, r"device=cpu,cpu: engine\.compile=graphs .* name one"),
        ("device=cpu", r"engine\.compile=graphs: only a GPU"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            prepare.prepare(settings(devices, "engine.compile=graphs"))


@pytest.mark.parametrize("device", ["cpu,cuda:7", "cuda:7,cuda:7", "cpu,gpu"])
def test_what_is_no_set_of_devices_is_refused_in_one_line(capsys, device):
    asked = ["run", *small_world.overrides(f"device={device}", "output=out")]
    check_refused(capsys, asked, f"device={device}")
    assert not Path("out").exists()
