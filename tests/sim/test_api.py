"""userdp from Python: frames that say what the files say, and the example that uses them."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import small_world
from userdp.sim import api, cli
from userdp.sim.common.errors import ConfigurationError

EXAMPLE = Path(api.__file__).parents[1] / "analysis" / "examples" / "quickstart.py"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
    return tmp_path


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_importing_it_imports_nothing_heavy():
    code = (
        "import sys, userdp.sim.api; print({'torch', 'flwr', 'hydra', 'pandas'} & set(sys.modules))"
    )
    root = str(Path(api.__file__).parents[1])
    told = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True)
    assert told.stdout == b"set()\n"


def test_a_result_is_what_the_run_folder_holds():
    asked = api.compose(*small_world.overrides("output=mine", "eval_every=2", "rounds=3"))
    assert asked.settings.rounds == asked.values["rounds"] == 3
    result = api.run(asked)
    assert result.folder == Path("mine")
    assert result.statement == json.loads(Path("mine/privacy_statement.json").read_text())
    assert (result.adapter_path / "adapter_config.json").is_file()
    assert list(result.frame.index) == [0, 1, 2, 3]
    for row in lines(Path("mine"))[:-1]:
        for key, value in row.items():
            if key != "round":
                assert result.frame.loc[row["round"], key] == value
    assert result.frame["heldout_loss"].notna().tolist() == [True, False, True, True]
    assert result.summary["heldout_loss"] == result.frame["heldout_loss"].iloc[-1]
    assert result.summary["heldout_loss_before"] == result.frame["heldout_loss"].iloc[0]
    assert api.load("mine").frame.equals(result.frame)


def test_a_resumed_run_has_one_row_a_round():
    assert cli.main(["run", *small_world.overrides("output=mine")]) == 0
    path = Path("mine/metrics.jsonl")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:1]) + path.read_text())
    assert list(api.load("mine").frame.index) == [0, 1, 2]


@pytest.mark.slow
def test_a_sweep_is_a_row_a_run():
    study = api.sweep(*small_world.overrides("privacy.epsilon=1,8", "seed=1,2", "output=mine"))
    assert list(study.frame.index) == ["0", "1", "2", "3"]
    assert study.frame["privacy.epsilon"].tolist() == [1, 1, 8, 8]
    assert study.frame["seed"].tolist() == [1, 2, 1, 2]
    assert "rounds" not in study.frame  # the same in all
    for run, (_, row) in zip(study.runs, study.frame.iterrows(), strict=True):
        assert row["heldout_loss"] == lines(run.folder)[-1]["summary/heldout_loss"]
        assert row["epsilon"] == run.statement["epsilon"] <= row["privacy.epsilon"]
    assert not study.failures
    assert study.spending.composed_upper > study.frame["epsilon"].max()
    assert api.load_sweep("mine").frame.equals(study.frame)


def test_what_is_not_there_is_refused_in_one_line():
    Path("mine").mkdir()
    with pytest.raises(ConfigurationError, match="no complete run"):
        api.load("mine")
    with pytest.raises(ConfigurationError, match="no sweep"):
        api.load_sweep("mine")
    with pytest.raises(ConfigurationError, match="not both"):
        api.run("rounds=2", api.compose(*small_world.overrides()))


@pytest.mark.slow
def test_the_example_runs(monkeypatch, capsys):
    small = ["model=local", f"model.path={small_world.model()}", "model.seq_len=16"]
    small += ["data.users=60", "cohort=5", "rounds=2", "device=cpu", "model.lora.r=1"]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "-f", "--f=kernel.json", *small])
    runpy.run_path(str(EXAMPLE))
    out = capsys.readouterr().out
    assert "Looking at 4 runs on the same users costs epsilon <=" in out
    assert "signal_to_noise" in out
