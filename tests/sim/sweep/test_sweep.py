"""A sweep: one folder a job, no job knows of another, one offline wandb run each."""

from __future__ import annotations

import json
import re
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from wandb.proto import wandb_internal_pb2

from helpers import small_world
from helpers.whole_runs import adapter, stated
from userdp.sim import cli

pytestmark = pytest.mark.slow  # whole runs

SWEEP = ["strategy=user_wise,group_privacy", "privacy.epsilon=1,8", "strategy.records_per_user=2"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return tmp_path


def swept(*overrides: str) -> list[Path]:
    assert cli.main(["run", "-m", *small_world.overrides(*overrides)]) == 0
    return sorted(path.parent for path in Path().rglob("ledger.jsonl"))


@pytest.mark.slow
def test_every_job_has_its_own_folder_and_claim(capsys, elsewhere):
    folders = swept(*SWEEP)
    assert [folder.name for folder in folders] == ["0", "1", "2", "3"]
    claims = [(stated(folder)["strategy"], stated(folder)["epsilon"]) for folder in folders]
    for (strategy, epsilon), (asked, target) in zip(
        claims, [(s, e) for s in ("user_wise", "group_privacy") for e in (1, 8)], strict=True
    ):
        assert strategy == asked
        assert 0.98 * target < epsilon <= target
    assert {path.name for path in elsewhere.iterdir()} == {"multirun"}
    assert "4 of 4 complete, 0 of them from before" in capsys.readouterr().out
    assert all("run folder" in (folder / "output.txt").read_text() for folder in folders)
    assert all(stated(folder)["sweep"] for folder in folders)
    for folder in folders:
        assert cli.main(["verify", str(folder)]) == 0


@pytest.mark.slow
def test_a_job_of_a_sweep_is_the_run_alone():
    """Whatever ran before it in the process, to the last bit of a reproducible adapter."""
    fixed = ["privacy.reproducible=true", "selection=longest,high_perplexity"]
    choices = ["model.lora.r=1,2", "seed=1,2"]
    jobs = swept(*fixed, *choices, "output=together")
    for number in (3, 4):  # r = 2 after r = 1; the second selection, back at seed 1
        given = (Path("together") / str(number) / "config.yaml").read_text()
        config = OmegaConf.create(given)
        own = [f"model.lora.r={config.model.lora.r}", f"seed={config.seed}"]
        own += [fixed[0], f"selection={config.selection.rule}", f"output=alone/{number}"]
        assert cli.main(["run", *small_world.overrides(*own)]) == 0
        np.testing.assert_array_equal(adapter(jobs[number]), adapter(Path(f"alone/{number}")))
        together, alone = figures(jobs[number]), figures(Path(f"alone/{number}"))
        assert together == alone
    assert not np.array_equal(adapter(jobs[2]), adapter(jobs[3]))


def figures(folder: Path) -> list[dict]:
    """Everything that was tracked."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_output_is_the_folder_of_the_sweep(elsewhere):
    assert swept("cohort=4,6", "output=mine") == [Path("mine/0"), Path("mine/1")]
    assert {path.name for path in elsewhere.iterdir()} == {"mine"}


@pytest.mark.parametrize("on", ["false", "true,false", "true"])
def test_how_long_private_records_took_is_told_only_in_simulations(
    capsys, monkeypatch, tmp_path, on
):
    """Neither a job's output nor the end of the sweep: both may be kept in a file."""
    monkeypatch.setenv("USERDP_CACHE", str(tmp_path / "cache"))  # nothing is scored yet
    folders = swept("selection=low_perplexity", "rounds=1", f"track.simulation_only={on}")
    printed = (folders[0] / "output.txt").read_text()
    assert "Scoring records" in printed
    assert not re.search(r"\d:\d\d", printed)
    told = capsys.readouterr().out
    assert ("wall time" in told, "outside training" in told) == ((on == "true",) * 2)


@pytest.mark.slow
def test_each_job_is_one_offline_wandb_run(capsys):
    folders = swept("cohort=4,6", "track=wandb", "output=mine")
    for number, folder in enumerate(folders):
        [run] = folder.rglob("run-*.wandb")
        record = _complete(run)
        assert record["run"].run_group == "mine"
        assert record["run"].display_name == str(number)
        config = {item.key: json.loads(item.value_json) for item in record["run"].config.update}
        assert config["cohort"] == [4, 6][number]
        kept = {"adapter", "model_card", "privacy_statement", "ledger"}
        assert kept <= record["artifacts"]
    err = capsys.readouterr().err
    told = {line.split(":")[0] for line in err.splitlines()}
    assert told == {"job 0 (cohort=4)", "job 1 (cohort=6)"}


def _complete(path: Path) -> dict:
    """The file's content once wandb's service, which writes behind our back, has ended it."""
    deadline = time.monotonic() + 20
    while not (found := _content(path))["ended"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def _content(path: Path) -> dict:
    """The run and the names of the artifacts in an offline wandb file."""
    found: dict = {"artifacts": set(), "ended": False}
    for content in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        match record.WhichOneof("record_type"):
            case "run":
                found["run"] = record.run
            case "exit":
                found["ended"] = True
            case "artifact":
                found["artifacts"].add(record.artifact.name)
            case "request":
                found["artifacts"].add(record.request.log_artifact.artifact.name)
    return found


def _records(content: bytes) -> Iterator[bytes]:
    """LevelDB's log after 7 bytes: blocks of 32 KiB, chunks of crc, length, kind and bytes."""
    whole, middle, place = b"", (2, 3), 7
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack_from("<xxxxHB", content, place)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind not in middle:
            yield whole
            whole = b""
