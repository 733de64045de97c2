"""What a run leaves for TensorBoard, read back by TensorBoard's own reader."""

import importlib.util
import math
import time
from pathlib import Path

import pytest

from helpers import small_world
from userdp.sim import cli
from userdp.sim.tracking import tensorboard_tracker

PRIVATE = {"train_loss": 3.25, "cohort_size": 17}
CONFIG = {"privacy": {"epsilon": 8.0, "delta": None}, "plan": {"ks": [1, 2]}, "strict": True}


def logged(folder: Path, *, simulation_only: bool) -> Path:
    pytest.importorskip("tensorboard")
    tracker = tensorboard_tracker.TensorBoardTracker(folder, simulation_only=simulation_only)
    tracker.start(CONFIG)
    for number in (1, 2):
        time.sleep(0.02)
        tracker.log(number, {"epsilon": number / 10}, simulation_only=PRIVATE)
    tracker.log(3, {"epsilon": math.inf, "test_passed": True})
    tracker.summary({"heldout_loss": 4.5}, simulation_only={"users_real": 5})
    tracker.artifact(folder, "adapter", "model")
    tracker.close()
    return folder


def events(folder: Path) -> list:
    """Every event of the folder's one file."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    [path] = folder.iterdir()
    return list(loader.EventFileLoader(str(path)).Load())


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    values: dict[str, list[tuple[int, float]]] = {}
    for event in events(folder):
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "scalars" or value.tensor.float_val:
                values.setdefault(value.tag, []).append((event.step, value.tensor.float_val[0]))
    return values


def test_scalars_are_read_back_by_round_without_private_ones(tmp_path):
    values = scalars(logged(tmp_path / "strict", simulation_only=False))
    assert values == {
        "epsilon": [(1, pytest.approx(0.1)), (2, pytest.approx(0.2))],
        "test_passed": [(3, 1)],
        "summary/heldout_loss": [(3, 4.5)],
    }
    content = b"".join(path.read_bytes() for path in (tmp_path / "strict").iterdir())
    assert b"simulation_only" not in content
    private = scalars(logged(tmp_path / "open", simulation_only=True))
    assert private["simulation_only/train_loss"] == [(1, 3.25), (2, 3.25)]
    assert private["summary/simulation_only/users_real"] == [(3, 5)]


def test_no_event_tells_how_long_a_round_took(tmp_path):
    """But the first, which TensorBoard writes itself as the file is opened."""
    strict = events(logged(tmp_path / "strict", simulation_only=False))[1:]
    assert len({event.wall_time for event in strict}) == 1
    loose = events(logged(tmp_path / "open", simulation_only=True))
    assert len({event.wall_time for event in loose}) > 3


def test_the_configuration_is_the_runs_hyperparameters(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.plugins.hparams import plugin_data_pb2

    values: dict = {}
    for event in events(logged(tmp_path / "run", simulation_only=False)):
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "hparams":
                content = value.metadata.plugin_data.content
                data = plugin_data_pb2.HParamsPluginData.FromString(content)
                values |= dict(data.session_start_info.hparams)
    assert values["privacy.epsilon"].number_value == 8.0
    assert values["privacy.delta"].string_value == "None"
    assert values["plan.ks"].string_value == "[1, 2]"
    assert values["strict"].number_value == 1  # as torch writes a truth value


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))


def test_a_run_tracks_by_tensorboard(elsewhere):
    pytest.importorskip("tensorboard")
    assert cli.main(["run", *small_world.overrides("track=tensorboard", "output=run")]) == 0
    values = scalars(Path("run/tensorboard"))
    assert [step for step, _ in values["epsilon"]] == [1, 2]
    assert {"heldout_loss", "summary/heldout_perplexity", "summary/epsilon"} <= set(values)
    assert Path("run/metrics.jsonl").exists()


def test_without_the_package_a_run_is_refused_in_one_line(elsewhere, monkeypatch, capsys):
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboard" else there(name)
    )
    assert cli.main(["run", *small_world.overrides("track=tensorboard", "output=run")]) == 2
    error = capsys.readouterr().err
    assert "track.sink=tensorboard" in error
    assert "userdp[tensorboard]" in error
    assert error.count("\n") == 1
    assert not Path("run").exists()
