"""A wrong configuration ends with one line that names field, value and mend; nothing is left."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import small_world
from helpers.whole_runs import check_refused
from userdp.server.ledger import ledger
from userdp.sim import cli

STRATEGY = "strategy=group_privacy"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder: whatever a command writes shows there."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
    return here


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("colour=red", ["colour"]),
        ("privacy.colour=red", ["colour"]),
        ("+privacy.colour=red", ["privacy.colour", "no such key"]),
        ("strategy=nonsense", ["strategy/nonsense", "user_wise"]),
        ("data=nonsense", ["data/nonsense", "jsonl"]),
        ("privacy.epsilon=-1", ["privacy.epsilon=-1", "at least 0.0001"]),
        ("privacy.epsilon=0", ["privacy.epsilon=0", "at least 0.0001"]),
        ("privacy.epsilon=inf", ["privacy.epsilon=inf", "at most 1,000"]),
        ("privacy.epsilon=nan", ["privacy.epsilon=nan", "at most 1,000"]),
        ("privacy.epsilon=much", ["privacy.epsilon=much", "number"]),
        ("privacy.epsilon=true", ["privacy.epsilon=True", "number"]),
        ("privacy.epsilon=null", ["privacy.epsilon=None", "exactly one"]),
        ("privacy.delta=2", ["privacy.delta=2", "below 1"]),
        ("privacy.accountant=nonsense", ["privacy.accountant=nonsense", "choose one of pld"]),
        ("privacy.users=12.5", ["privacy.users=12.5", "integer"]),
        ("strategy.records_per_user=0", ["strategy.records_per_user=0", "at least 1", "all"]),
        ("strategy.records_per_user=x", ["strategy.records_per_user=x", "integer", "'all'"]),
        ("strategy.local_steps=0", ["strategy.local_steps=0"]),
        ("rounds=0", ["rounds=0"]),
        ("rounds=2.5", ["rounds=2.5", "integer"]),
        ("cohort=0", ["cohort=0", "at least 0.01"]),
        ("eval_every=0", ["eval_every=0"]),
        ("engine.max_tokens=0", ["engine.max_tokens=0"]),
        ("runtime.nodes=0", ["runtime.nodes=0"]),
        ("track=nonsense", ["track/nonsense", "wandb"]),
        ("model.seq_len=1", ["model.seq_len=1"]),
        ("data=jsonl", ["data.path"]),
        ("data.users=0", ["data.users=0"]),
        ("rounds=", ["rounds"]),
        ("rounds", ["rounds"]),
        ("privacy.epsilon=[", ["["]),
        ("privacy.epsilon=1,3", ["privacy.epsilon=1,3"]),
        ("--jsno", ["--jsno", "-m"]),
        ("resume=nowhere", ["resume=nowhere", "run folder"]),
    ],
)
def test_what_the_configuration_alone_shows(capsys, elsewhere, override, told):
    check_refused(capsys, ["run", override], *told)
    assert list(elsewhere.iterdir()) == []


def test_both_of_epsilon_and_noise(capsys):
    both = ["run", "privacy.epsilon=1", "privacy.noise_multiplier=2"]
    check_refused(capsys, both, "privacy.epsilon=1", "privacy.noise_multiplier=2", "exactly one")


def test_non_private_takes_no_epsilon(capsys):
    check_refused(capsys, ["run", "strategy=non_private", "privacy.epsilon=3"], "privacy.epsilon=3")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.path=nowhere.jsonl", ["data.path=nowhere.jsonl", "no such file"]),
        ("data.user=sender", ["data.user='sender'", "user_id, text"]),
        ("data.text=body", ["data.text='body'", "user_id, text"]),
        ("data.split=month", ["data.split=month", "'column'"]),
        ("data.split=column", ["data.split='column'", "data.split_column"]),
        ("data.holdout=1", ["data.holdout=1"]),
        ("data.holdout=0", ["data.holdout", "above 0 and below 1"]),
        ("model.path=nowhere", ["model.path=nowhere", "no such folder"]),
        ("model.path=.", ["model.path=.", "config.json"]),
        ("model.lora.targets=[nonsense]", ["model.lora.targets", "nonsense"]),
        ("model.lora.r=0", ["model.lora.r=0"]),
        ("model.seq_len=33", ["model.seq_len=33", "32 positions"]),
        ("privacy.users=5", ["privacy.users=5", "more users"]),
        ("privacy.delta=0.2", ["privacy.delta=0.2", "leave it out"]),
        ("cohort=1000", ["cohort=1000", "declared users"]),
        ("device=nonsense", ["device=nonsense", "cpu"]),
        ("device=cuda:99", ["device=cuda:99", "cpu"]),
        ("optimizer.lr=-1", ["optimizer.lr=-1"]),
        ("optimizer.lr=inf", ["optimizer.lr=inf", "at most 1,000,000"]),
        ("optimizer.colour=red", ["colour"]),
        ("+optimizer.colour=red", ["optimizer.colour=red"]),
        ("schedule.name=nonsense", ["schedule.name=nonsense", "cosine"]),
        ("schedule.warmup=3", ["schedule.warmup=3"]),
        ("selection.rule=nonsense", ["selection.rule=nonsense", "longest"]),
        ("strategy.clip_norm=0", ["strategy.clip_norm=0"]),
        ("strategy.clip_norm=null", ["strategy.clip_norm=None"]),
        ("strategy.mechanism=no.such.Class", ["strategy.mechanism=no.such.Class"]),
        ("strategy.mechanism=server.non_private.NonPrivate", ["strategy.mechanism"]),
        ("plan.sampling_rate=0.1", ["plan.sampling_rate=0.1", "userdp plan"]),
    ],
)
def test_what_data_or_model_show(capsys, elsewhere, override, told):
    check_refused(capsys, ["run", *small_world.overrides(override)], *told)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("optimizer", "override", "told"),
    [
        ("adam_bc", "optimizer.floor=0", "optimizer.floor=0: must be positive"),
        ("adam_bc", "optimizer.lr=-1", "optimizer.lr=-1: should be at least 0"),
        ("adam_bc", "optimizer.betas=[0.9,1]", "optimizer.betas=[0.9, 1]"),
        ("adam_bc", "optimizer.betas=0.9", "optimizer.betas=0.9"),
        (
            "adam_bc",
            "optimizer.floor=inf",
            "optimizer.floor=inf: should be at least 0 and at most 1,000",
        ),
        ("scale_then_privatize", "optimizer.scale_eps=0", "optimizer.scale_eps=0: must be pos"),
        ("scale_then_privatize", "optimizer.lr=-1", "optimizer.lr=-1"),
        ("scale_then_privatize", "optimizer.betas=[0.9]", "optimizer.betas=[0.9]"),
        ("scale_then_privatize", "optimizer.floor=1", "floor"),
    ],
)
def test_optimisers_for_noisy_gradients(capsys, elsewhere, optimizer, override, told):
    asked = small_world.overrides(f"optimizer={optimizer}", override)
    check_refused(capsys, ["run", *asked], told)
    assert list(elsewhere.iterdir()) == []


def test_noise_that_is_correlated_over_rounds_in_one_space_bears_no_scale(capsys, elsewhere):
    strategy = "strategy=matrix_factorization"
    asked = small_world.overrides(strategy, "optimizer=scale_then_privatize")
    told = ("optimizer=scale_then_privatize", strategy, "take optimizer=adam")
    check_refused(capsys, ["run", *asked], *told)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
def test_accountants_without_mixtures(capsys, elsewhere, accountant):
    arguments = small_world.overrides(STRATEGY, f"privacy.accountant={accountant}")
    check_refused(capsys, ["run", *arguments], accountant, "mixture", "lemma")
    assert list(elsewhere.iterdir()) == []


def test_group_privacy_needs_a_cap(capsys):
    arguments = small_world.overrides(STRATEGY, "strategy.records_per_user=all")
    check_refused(capsys, ["run", *arguments], "strategy.records_per_user=all")


def test_bad_data_under_strict_names_the_line(capsys, elsewhere, tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text((small_world.folder() / "mail.jsonl").read_text() + "{broken\n")
    arguments = small_world.overrides(f"data.path={broken}", "data.strict=true")
    check_refused(capsys, ["run", *arguments], "broken.jsonl", "line", "data.strict=true")
    assert list(elsewhere.iterdir()) == []


def test_a_model_folder_with_damaged_weights(capsys, tmp_path):
    damaged = tmp_path / "model"
    shutil.copytree(small_world.model(), damaged)
    (damaged / "model.safetensors").write_bytes(b"not weights")
    check_refused(capsys, ["run", *small_world.overrides(f"model.path={damaged}")], "model.path=")


def test_no_such_command(capsys):
    check_refused(capsys, ["train"], "train", "plan")


def test_verify_names_what_is_wrong(capsys, tmp_path):
    check_refused(capsys, ["verify"], "run folder")
    check_refused(capsys, ["verify", "nowhere"], "nowhere")
    (tmp_path / "ledger.jsonl").write_text("{}\n")
    check_refused(capsys, ["verify", str(tmp_path)], "ledger.jsonl")


def test_a_wrong_job_stops_a_sweep_before_its_first(capsys, elsewhere):
    sweep = small_world.overrides("rounds=1,2", "privacy.epsilon=8,-1")
    check_refused(capsys, ["run", "-m", *sweep], "privacy.epsilon=-1")
    check_refused(capsys, ["run", "-m", *small_world.overrides("cohort=6,1000")], "cohort=1000")
    check_refused(capsys, ["run", "-m", *small_world.overrides("cohort=6,[")], "[")
    check_refused(capsys, ["run", "-m", *small_world.overrides("resume=here")], "resume", "-m")
    assert list(elsewhere.iterdir()) == []


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
        assert cli.main(["run", *small_world.overrides(f"output={folder}")]) == 0
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, killed after its last round and before its statement."""
    folder = tmp_path_factory.mktemp("killed") / "run"

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
        patch.setattr("userdp.sim.run.finish._publish", kill)
        assert cli.main(["run", *small_world.overrides(f"output={folder}")]) == 130
    return folder


@pytest.fixture
def unfinished(killed: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(killed, tmp_path / "unfinished"))


def test_a_folder_that_holds_a_run(capsys, finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    capsys.readouterr()
    check_refused(
        capsys, ["run", *small_world.overrides(f"output={finished}")], "holds a run", "resume="
    )
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*")}


def test_missing_data_is_told_before_a_model_is_trained(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "userdp.clients.models.embedded.ensure", lambda *_: pytest.fail("pre-training began")
    )
    check_refused(
        capsys, ["run", "data=jsonl", f"data.path={tmp_path / 'none'}"], "data.path", "no such"
    )


def test_an_output_that_is_a_file(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    arguments = small_world.overrides(f"output={tmp_path / 'file' / 'run'}")
    check_refused(capsys, ["run", *arguments], "output=", "file")


def test_a_finished_run_has_nothing_to_resume(capsys, finished):
    capsys.readouterr()
    check_refused(capsys, ["run", f"resume={finished}"], "rounds are spent")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("privacy.epsilon=7", ["noise_multiplier", "in the ledger"]),
        ("cohort=5", ["sampling_rate"]),
        ("strategy.records_per_user=3", ["records_per_user: 2 in the ledger, 3 asked"]),
        ("strategy.clip_norm=2.0", ["clip_norm: 1.0 in the ledger, 2.0 asked"]),
        ("privacy.delta=0.001", ["delta"]),
        ("selection.rule=longest", ["selection: 'random' in the ledger, 'longest' asked"]),
        ("rounds=3", ["rounds: 2 in the ledger, 3 asked"]),
        ("seed=1", ["seed"]),
        ("privacy.reproducible=true", ["seeds_policy"]),
        ("strategy=group_privacy", ["strategy=group_privacy", "start a new run"]),
        ("model.lora.r=3", ["model.lora"]),
        ("colour=red", ["colour"]),
        ("cohort=x", ["cohort=x"]),
    ],
)
def test_resuming_another_mechanism(capsys, unfinished, override, told):
    content = (unfinished / "ledger.jsonl").read_bytes()
    check_refused(capsys, ["run", f"resume={unfinished}", override], *told)
    assert (unfinished / "ledger.jsonl").read_bytes() == content
    assert not (unfinished / "privacy_statement.json").exists()


def test_resuming_with_a_damaged_checkpoint(capsys, unfinished):
    (unfinished / "checkpoint" / "state.pt").write_bytes(b"torn")
    check_refused(capsys, ["run", f"resume={unfinished}"], "checkpoint", "damaged")


def test_resuming_without_the_checkpoint_does_not_start_over(capsys, unfinished):
    (unfinished / "checkpoint" / "state.pt").unlink()
    check_refused(
        capsys, ["run", f"resume={unfinished}"], "releases are recorded", "checkpoint/ is gone"
    )


def test_resuming_with_releases_cut_off_the_ledger(capsys, unfinished):
    """What is left is a valid chain; the checkpoint knows that there was more."""
    path = unfinished / "ledger.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    assert ledger.verify(path).rounds == 1
    check_refused(
        capsys, ["run", f"resume={unfinished}"], "the checkpoint", "removed from this ledger"
    )


def test_resuming_a_run_that_is_running(capsys, unfinished):
    held = ledger.Ledger.resume(
        unfinished / "ledger.jsonl", ledger.verify(unfinished / "ledger.jsonl").header
    )
    with held:
        check_refused(capsys, ["run", f"resume={unfinished}"], "in use")


def test_resuming_with_broken_settings(capsys, unfinished):
    (unfinished / "config.yaml").write_text("rounds: [")
    check_refused(capsys, ["run", f"resume={unfinished}"], "resume=")


def test_verify_refuses_another_claim(capsys, unfinished, finished):
    capsys.readouterr()
    assert cli.main(["verify", str(finished)]) == 0
    assert "2 rounds intended, 0 of them without a release" in capsys.readouterr().out
    told = (finished / "privacy_statement.json").read_text()
    (unfinished / "privacy_statement.json").write_text(told.replace('"epsilon": 7', '"epsilon": 6'))
    check_refused(capsys, ["verify", str(unfinished)], "epsilon=6")


def test_help_is_quick(elsewhere):
    begin = time.perf_counter()
    command = [sys.executable, "-m", "userdp.sim.cli", "run", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "userdp plan" in done.stdout
    assert time.perf_counter() - begin < 5  # a second on an idle machine; torch alone takes two


def test_the_command_imports_nothing_heavy_for_a_plan(elsewhere):
    code = (
        "import sys; from userdp.sim import cli;"
        "cli.main(['plan', 'privacy.users=2164', 'privacy.epsilon=3']);"
        "print(sorted({'torch', 'transformers', 'peft', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.endswith("[]\n")
    assert "epsilon <= 2.99" in done.stdout
    assert done.stderr == ""
