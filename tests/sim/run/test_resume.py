"""A resumed run goes on with the records, the base model and the checkpoint that it had."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from helpers import forgery, small_world
from helpers.whole_runs import check_refused, ran, stated, stopped
from userdp.server.ledger import hash_chain, ledger
from userdp.server.optimizers.server_optimizer import ServerOptimizer
from userdp.sim import cli
from userdp.sim.data import holdout
from userdp.sim.inputs import precision

ADAPTIVE = ["strategy.clip_quantile=0.5", "privacy.noise_multiplier=0.5", "privacy.epsilon=null"]
BEGUN = ["privacy.users=60", "rounds=4"]
Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped in round 3 of 4; N is declared, so that it tells no one apart."""
    folder = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
        return stopped(folder / "run", 3, *BEGUN, *ADAPTIVE)


@pytest.fixture(autouse=True)
def run(begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
    return Path(shutil.copytree(begun, Path("run")))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, told: str) -> None:
    """The resume is refused in one line, and the ledger is as it was."""
    capsys.readouterr()
    before = Path("run/ledger.jsonl").read_bytes()
    check_refused(capsys, ["run", "resume=run", *arguments], told)
    assert Path("run/ledger.jsonl").read_bytes() == before


# Records and base model.


def held_out(user: str) -> bool:
    return holdout.user_held_out(0, user, 0.3)


def added(rows: Rows) -> Rows:
    name = next(f"new-{n}" for n in range(99) if not held_out(f"new-{n}"))
    return [*rows, {"user_id": name, "text": "a new user of the old town"}]


def deleted(rows: Rows) -> Rows:
    user = next(row["user_id"] for row in rows if not held_out(row["user_id"]))
    return [row for row in rows if row["user_id"] != user]


def edited(rows: Rows) -> Rows:
    place = next(n for n, row in enumerate(rows) if not held_out(row["user_id"]))
    return [*rows[:place], {**rows[place], "text": "the cat sat"}, *rows[place + 1 :]]


def renamed(rows: Rows) -> Rows:
    user = next(row["user_id"] for row in rows if not held_out(row["user_id"]))
    name = next(f"{user}-{n}" for n in range(99) if not held_out(f"{user}-{n}"))
    return [{**row, "user_id": name} if row["user_id"] == user else row for row in rows]


def reordered(rows: Rows) -> Rows:
    return [*rows[len(rows) // 2 :], *rows[: len(rows) // 2]]


@pytest.mark.parametrize("change", [added, deleted, edited, renamed, reordered])
def test_other_training_records_are_refused(capsys, change: Callable[[Rows], Rows]):
    rows = change(small_world.rows())
    Path("mail.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused(capsys, "data.path=mail.jsonl", told="resume=run: the training records")


def test_other_held_out_records_are_refused_by_that_name(capsys):
    rows = small_world.rows()
    place = next(n for n, row in enumerate(rows) if held_out(row["user_id"]))
    rows[place] = {**rows[place], "text": "the dog saw my mat"}
    Path("mail.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused(capsys, "data.path=mail.jsonl", told="resume=run: the held-out records are not")


def test_the_same_records_in_another_place_are_the_same(capsys):
    shutil.copy(small_world.folder() / "mail.jsonl", "moved.jsonl")
    assert cli.main(["run", "resume=run", "data.path=moved.jsonl"]) == 0, capsys.readouterr().err
    assert cli.main(["verify", "run"]) == 0


def test_other_base_weights_of_the_same_name_are_refused(capsys):
    model = shutil.copytree(small_world.model(), Path("other") / small_world.model().name)
    path = model / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    name = next(name for name, tensor in tensors.items() if tensor.dim() == 2)
    tensors[name][0, 0] += 1e-3
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    refused(capsys, f"model.path={model}", told="resume=run: the base weights are not")


def test_a_run_goes_on_in_its_precision_where_auto_would_be_another(monkeypatch):
    """It began where bfloat16 pays, and goes on where it does not."""
    model = Path(shutil.copytree(small_world.model(), Path("short") / "model"))
    path = model / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    halved = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    safetensors.torch.save_file(halved, path, metadata={"format": "pt"})
    stored = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**stored, "dtype": "bfloat16"}))
    monkeypatch.setattr(precision, "bfloat16_pays", lambda: True)
    stopped("in_half", 3, *BEGUN, f"model.path={model}")
    monkeypatch.setattr(precision, "bfloat16_pays", lambda: False)
    assert cli.main(["run", "resume=in_half"]) == 0
    assert ledger.verify(Path("in_half/ledger.jsonl")).header["base_dtype"] == "bfloat16"
    fresh = ran("fresh", *BEGUN, f"model.path={model}")
    assert ledger.verify(fresh / "ledger.jsonl").header["base_dtype"] == "float32"


def test_another_tokenizer_is_refused(capsys):
    """It gives the same ids to these records, so that nothing but its own digest can tell."""
    model = shutil.copytree(small_world.model(), Path("other") / small_world.model().name)
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": "{{ 1 }}"}))
    refused(capsys, f"model.path={model}", told="resume=run: the tokenizer are not")


def test_another_configuration_of_the_base_model_is_refused(capsys):
    model = shutil.copytree(small_world.model(), Path("other") / small_world.model().name)
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "layer_norm_epsilon": 1e-3}))
    refused(capsys, f"model.path={model}", told="configuration of the base model")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("data.user=text", "data.user: 'user_id' in the ledger, 'text' asked"),
        ("data.holdout=0.6", "data.holdout: 0.3 in the ledger, 0.6 asked"),
        ("data.split=record", "split: 'user' in the ledger, 'record' asked"),
        ("data.seed=1", "data_seed: 0 in the ledger, 1 asked"),
        ("model.lora.alpha=3", "model.lora.alpha: 16"),
    ],
)
def test_public_facts_about_the_data_are_refused_with_both_values(capsys, change, told):
    refused(capsys, change, told=told)


def test_the_digests_are_private_keyed_and_deleted_at_the_end(capsys):
    path = Path("run/checkpoint/inputs.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = json.loads(path.read_text())
    stopped("again", 1, *BEGUN, *ADAPTIVE)
    other = json.loads(Path("again/checkpoint/inputs.json").read_text())
    assert content["key"] != other["key"]
    assert not set(content["digests"].values()) & set(other["digests"].values())
    public = [file for file in Path("run").rglob("*") if file.is_file() and file != path]
    for digest in (content["key"], *content["digests"].values()):
        assert all(digest.encode() not in file.read_bytes() for file in public)
    assert cli.main(["run", "resume=run"]) == 0
    assert not path.exists()


def test_without_the_digests_the_run_does_not_go_on(capsys):
    path = Path("run/checkpoint/inputs.json")
    content = path.read_text()
    path.unlink()
    refused(capsys, told="inputs.json is missing")
    path.write_text(content[:-9])
    refused(capsys, told="inputs.json is damaged")


def test_scores_are_not_published_without_the_digests_when_all_rounds_are_spent(capsys):
    """No round is left, but a resume still scores what it takes for held-out users."""
    path = Path("run/checkpoint/inputs.json")
    content = path.read_text()
    assert cli.main(["run", "resume=run"]) == 0
    Path("run/privacy_statement.json").unlink()
    refused(capsys, "data.path=other.jsonl", told="no such file")
    refused(capsys, told="inputs.json is missing")
    path.write_text(content)
    assert cli.main(["run", "resume=run"]) == 0, capsys.readouterr().err


def test_a_run_that_was_killed_before_they_were_written_goes_on(capsys):
    """Its ledger has a header and no intent, so nothing was released."""
    path = Path("run/ledger.jsonl")
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    shutil.rmtree("run/checkpoint")
    assert cli.main(["run", "resume=run"]) == 0, capsys.readouterr().err
    assert stated(Path("run"))["rounds"] == 4


# The checkpoint.


def swapped(values: dict[str, Any]) -> None:
    values["optimizer"]["adapter"] = values["optimizer"]["adapter"] + 1.0


def not_a_number(values: dict[str, Any]) -> None:
    values["optimizer"]["adapter"][3] = float("nan")


def endless(values: dict[str, Any]) -> None:
    values["optimizer"]["averaged"][0] = float("inf")


def wide(values: dict[str, Any]) -> None:
    values["mechanism"]["clip_norm"] = 50.0


def quiet(values: dict[str, Any]) -> None:
    values["mechanism"]["noise_multiplier"] = 1e-3


def short(values: dict[str, Any]) -> None:
    values["optimizer"]["adapter"] = values["optimizer"]["adapter"][:1]


def of_round_1(values: dict[str, Any]) -> None:
    values["round"] = 1


def test_a_checkpoint_of_an_earlier_round_is_refused(capsys, run):
    """Its digest stands in the ledger, but a later round was stored since: rounds roll back."""
    stopped("earlier", 2, *BEGUN, *ADAPTIVE)
    old = (Path("earlier") / "checkpoint" / "state.pt").read_bytes()
    before = Path("earlier/checkpoint")
    shutil.copytree(before, "kept")
    assert cli.main(["run", "resume=earlier"]) == 0
    Path("earlier/privacy_statement.json").unlink()
    shutil.copy("kept/inputs.json", before / "inputs.json")
    (before / "state.pt").write_bytes(old)
    capsys.readouterr()
    check_refused(capsys, ["run", "resume=earlier"], "is of round 1", "stored round 4", "old copy")
    check_refused(capsys, ["verify", "earlier"], "is of round 1", "stored round 4", "old copy")
    (before / "state.pt").unlink()
    (before / "other.pt").write_bytes(b"")
    check_refused(capsys, ["run", "resume=earlier"], "state.pt is missing")


@pytest.mark.parametrize("change", [swapped, not_a_number, wide, quiet, short, of_round_1])
def test_a_checkpoint_that_the_ledger_did_not_record_is_refused(capsys, run, change):
    forgery.state(run, change)
    refused(capsys, told="is not the checkpoint of round")


def test_a_checkpoint_of_a_round_without_release_is_refused(capsys, run):
    """Round 3 was intended and not stored: a checkpoint of it names the intent of round 2."""
    forgery.state(run, lambda values: values.update(round=3))
    refused(capsys, told="which the ledger does not hold")


def test_a_checkpoint_of_another_run_is_refused(capsys):
    other = stopped("other", 3, *BEGUN, *ADAPTIVE)
    shutil.copy(other / "checkpoint" / "state.pt", "run/checkpoint/state.pt")
    refused(capsys, told="two copies of the run folder both went on")


def killed_before_done() -> None:
    """As if the kill had come after round 2 was stored and before the ledger closed it."""
    path = Path("run/ledger.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]))
    assert [json.loads(line)["kind"] for line in lines[:4]][-2:] == ["done", "intent"]


def test_a_kill_between_checkpoint_and_ledger_loses_nothing(capsys, monkeypatch):
    killed_before_done()
    kept = torch.load("run/checkpoint/state.pt", weights_only=True)["optimizer"]["adapter"]
    seen: list[torch.Tensor] = []
    restore = ServerOptimizer.restore

    def restoring(self: ServerOptimizer, state: dict[str, Any]) -> None:
        restore(self, state)
        seen.append(torch.from_numpy(self.adapter))

    monkeypatch.setattr(ServerOptimizer, "restore", restoring)
    assert cli.main(["run", "resume=run"]) == 0, capsys.readouterr().err
    assert torch.equal(seen[0], kept)
    account = ledger.verify(Path("run/ledger.jsonl"))
    assert (account.rounds, account.unfinished) == (4, (2,))
    assert cli.main(["verify", "run"]) == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (not_a_number, "not finite"),
        (endless, "not finite"),
        (wide, "cannot have led to clip_norm=50"),
        (quiet, "noise_multiplier"),
        (short, "shape"),
        (of_round_1, "is not the checkpoint of round 1"),
    ],
)
def test_impossible_numbers_are_refused_where_no_digest_is_recorded(capsys, run, change, told):
    killed_before_done()
    forgery.state(run, change)
    refused(capsys, told=told)


def test_a_fixed_clip_norm_is_that_of_the_header(capsys):
    shutil.rmtree("run")
    run = stopped("run", 2, "rounds=3")
    path = run / "ledger.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    forgery.state(run, lambda values: values["mechanism"].update(clip_norm=1.01))
    refused(capsys, told="cannot have led to clip_norm=1.01")


# What was ever written without noise.


@pytest.mark.parametrize(("first", "second"), [("true", "false"), ("false", "true")])
def test_values_without_noise_are_told_for_good(capsys, first, second):
    shutil.rmtree("run")
    run = stopped("run", 2, "rounds=3", f"track.simulation_only={first}")
    assert cli.main(["run", "resume=run", f"track.simulation_only={second}"]) == 0
    assert stated(run)["simulation_only"]
    assert "simulation_only" in json.dumps(stated(run)["not_covered"])
    assert "| simulation_only | true |" in (run / "adapter" / "README.md").read_text()
    capsys.readouterr()
    assert cli.main(["verify", "run"]) == 0
    assert "values without noise" in capsys.readouterr().out


def test_the_note_comes_before_the_first_such_value():
    run = ran("noted", "track.simulation_only=true")
    kinds = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
    assert (kinds[1]["kind"], kinds[1]["text"]) == ("note", hash_chain.SIMULATION_ONLY)
    assert kinds[2]["kind"] == "intent"


def test_a_note_that_was_taken_out_is_missed(capsys):
    run = ran("noted", "track.simulation_only=true")
    forgery.resealed(run, lambda entries: [e for e in entries if e["kind"] != "note"])
    (run / "privacy_statement.json").unlink()
    capsys.readouterr()
    check_refused(capsys, ["verify", str(run)], "simulation_only", "no note")


def test_the_ledger_holds_the_digest_of_the_checkpoint(run):
    digest = hashlib.sha256((run / "checkpoint" / "state.pt").read_bytes()).hexdigest()
    assert ledger.verify(run / "ledger.jsonl").of_kind("done")[2]["release"] == digest
