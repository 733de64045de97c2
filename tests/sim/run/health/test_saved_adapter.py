"""A run's adapter is loaded by plain peft before its statement: it must score as the run's own."""

from __future__ import annotations

import json
import shutil

import pytest
import safetensors.torch

from helpers import small_world
from userdp.clients.evaluation import plain_peft
from userdp.clients.models import export
from userdp.clients.training import memory
from userdp.sim import cli

pytestmark = pytest.mark.slow  # whole runs


@pytest.fixture
def world(tmp_path, monkeypatch):
    """The working folder, with a base model of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
    shutil.copytree(small_world.model(), tmp_path / "base")
    return tmp_path


def run(*more):
    options = ["model.path=base", "output=run", "optimizer.lr=0.1", *more]
    return cli.main(["run", *small_world.overrides(*options)])


def edited(path):
    tensors = safetensors.torch.load_file(path)
    name = next(name for name in tensors if name.endswith("wte.weight"))
    tensors[name] = tensors[name] * 30
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_base_model_that_changed_on_disk_stops_the_run_until_it_is_restored(
    world, monkeypatch, capsys, dtype
):
    weights, whole = world / "base" / "model.safetensors", export.save
    original = weights.read_bytes()

    def save(*arguments, **options):
        whole(*arguments, **options)
        edited(weights)

    with monkeypatch.context() as patch:
        patch.setattr(export, "save", save)
        assert run(f"model.dtype={dtype}", "rounds=1") == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if "stopped: " in line]
    assert "loaded by plain transformers and peft" in line
    assert "model.path=base" in line
    assert not (world / "run" / "privacy_statement.json").exists()
    assert cli.main(["verify", "run"]) == 0
    weights.write_bytes(original)
    assert cli.main(["run", "resume=run"]) == 0
    assert (world / "run" / "privacy_statement.json").exists()
    assert cli.main(["verify", "run"]) == 0


@pytest.mark.parametrize("options", [[], ["schedule.average=0.5"], ["model.lora.freeze_a=true"]])
def test_an_adapter_that_is_not_the_scored_one_stops_the_run(world, monkeypatch, capsys, options):
    """Saved in another order than it was scored; without that the same run ends well."""
    whole, orders = export.save, [-1, 1]

    def save(model, adapter, *arguments, **options):
        whole(model, adapter[:: orders[0]].copy(), *arguments, **options)

    monkeypatch.setattr(export, "save", save)
    assert run(*options, "rounds=3", "optimizer.lr=0.3") == 1
    assert "saved adapter has the loss" in capsys.readouterr().err
    orders.pop(0)
    assert cli.main(["run", "resume=run"]) == 0


def test_an_adapter_that_peft_cannot_load_stops_the_run(world, monkeypatch, capsys):
    whole = export.save

    def save(model, adapter, folder, **names):
        whole(model, adapter, folder, **names)
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "nothing"}))

    monkeypatch.setattr(export, "save", save)
    assert run("rounds=1") == 1
    assert "peft cannot load the saved adapter" in capsys.readouterr().err


@pytest.mark.parametrize("why", ["gone", "memory"])
def test_what_cannot_be_loaded_again_is_told_and_ends_no_run(world, monkeypatch, capsys, why):
    if why == "gone":
        whole = export.save

        def save(*arguments, **options):
            whole(*arguments, **options)
            shutil.rmtree(world / "base")

        monkeypatch.setattr(export, "save", save)
    else:
        load = plain_peft.load_base
        monkeypatch.setattr(plain_peft, "load_base", lambda *_, **__: load and 1 / 0)
        monkeypatch.setattr(memory, "free_bytes", lambda _: 1000.0)
    assert run("rounds=1", "engine.max_lanes=4") == 0
    [line] = [line for line in capsys.readouterr().err.splitlines() if "not loaded by" in line]
    assert "model.path=base" in line
    assert ("does not fit into memory" in line) == (why == "memory")
