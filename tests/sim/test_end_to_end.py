"""Whole runs, tiny: what they leave behind, what they never write, how they go on after a stop."""

from __future__ import annotations

import csv
import importlib.resources
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pytest

from helpers import small_world
from helpers.whole_runs import adapter, logged, ran, stated
from userdp.server import strategy as server_strategy
from userdp.server.ledger import ledger
from userdp.server.statement import prose, schema
from userdp.sim import cli
from userdp.sim.tracking import metric_kinds

pytestmark = pytest.mark.slow  # whole runs

CORRELATED = "matrix_factorization"  # whose noise refuses a scale
STRATEGIES = ["user_wise", "group_privacy", CORRELATED, "non_private"]
COUNTED = "userdp: warning: privacy.users=null: the number of users"  # asks for a declared N
FILES = {
    *("config.yaml", "ledger.jsonl", "metrics.jsonl", "privacy_statement.json"),
    *("adapter/README.md", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"),
    *("adapter/tokenizer.json", "adapter/tokenizer_config.json", "samples.jsonl"),
    "checkpoint/state.pt",
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
    return tmp_path


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_leaves_a_verified_claim(capsys, strategy):
    folder = ran("run", f"strategy={strategy}", "strategy.records_per_user=2")
    out, err = capsys.readouterr()
    told = stated(folder)
    schema.validate(told)
    account = ledger.verify(folder / "ledger.jsonl")
    assert (account.rounds, account.unfinished, account.head) == (2, (), told["ledger_hash"])
    assert told["private"] == (strategy != "non_private")
    assert (told["epsilon"] is None) == (strategy == "non_private")
    assert cli.main(["verify", str(folder)]) == 0
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == FILES
    assert np.isfinite(adapter(folder)).all()
    _check_screen(out, err, folder, told)


def _check_screen(out: str, err: str, folder: Path, told: dict) -> None:
    """Run folder and statement come last; errors hold the progress and nothing of third parties."""
    *_, folder_line, claim = out.splitlines()
    assert folder_line.split() == ["run", "folder", str(folder)]
    assert claim == prose.text(told).split("\n\n")[0]
    lines = [line for line in err.splitlines() if not line.startswith(COUNTED)]
    assert all(line.startswith("round ") for line in lines), err
    assert len(err.splitlines()) - len(lines) == told["private"]


@pytest.mark.parametrize(
    ("optimizer", "strategy"),
    [
        *(("adam_bc", strategy) for strategy in STRATEGIES),
        *(("scale_then_privatize", strategy) for strategy in STRATEGIES if strategy != CORRELATED),
    ],
)
def test_optimisers_for_noisy_gradients_leave_a_verified_claim_that_names_them(optimizer, strategy):
    more = ["strategy.local_steps=2", "rounds=3", "strategy.local_lr=0.5"]
    folder = ran("run", f"strategy={strategy}", f"optimizer={optimizer}", *more)
    assert cli.main(["verify", str(folder)]) == 0
    header = json.loads((folder / "ledger.jsonl").read_text().splitlines()[0])
    asked = str(header)
    assert f"'name': '{optimizer}'" in asked
    assert ("floor" in asked) == (optimizer == "adam_bc")
    rescaled = optimizer == "scale_then_privatize"
    assert ("scale_eps" in asked) == rescaled
    told = json.loads((folder / "privacy_statement.json").read_text())
    assert told["rescaled"] == rescaled
    assert ("made of earlier releases alone" in prose.text(told)) == rescaled
    assert np.isfinite(adapter(folder)).all()


def test_a_run_learns_from_its_users():
    """A seed, so that the cohorts are the same whenever the test runs."""
    fixed = ["privacy.reproducible=true", "rounds=40", "cohort=12", "optimizer.lr=0.02"]
    rows = logged(ran("run", "strategy=non_private", *fixed))
    last = rows[-1]
    assert last["summary/heldout_loss"] < last["summary/heldout_loss_before"] - 0.03
    assert rows[0]["heldout_loss"] == last["summary/heldout_loss_before"]


def test_what_is_saved_and_scored_is_the_average_over_rounds():
    fixed = ["privacy.reproducible=true", "privacy.noise_multiplier=1", "eval_every=1"]
    first, last = (adapter(ran(f"of-{t}", *fixed, f"rounds={t}")) for t in (1, 2))
    folder = ran("averaged", *fixed, "rounds=2", "schedule.average=0.5")
    np.testing.assert_allclose(adapter(folder), (last + 0.5 * first) / 1.5, atol=1e-7)
    losses = [row["heldout_loss"] for row in logged(folder) if "heldout_loss" in row]
    assert losses[2] == logged(folder)[-1]["summary/heldout_loss"]
    assert losses[1] != losses[2] != logged(Path("of-2"))[-1]["summary/heldout_loss"]


def test_secret_noise_differs_between_two_runs_of_one_configuration():
    """At the noise's own scale: releases of one cohort law differ by noise of std z C / m."""
    options = ["optimizer=sgd", "optimizer.lr=1.0", "rounds=1", "privacy.noise_multiplier=100"]
    first, second = (ran(name, *options) for name in ("a", "b"))
    difference = adapter(first) - adapter(second)
    scale = math.sqrt(2) * 100 * 1.0 / 6
    ratio = difference.std() / scale
    assert 0.85 < ratio < 1.18  # five standard errors; refuses 2/3 and 3/2
    assert abs(np.corrcoef(adapter(first), adapter(second))[0, 1]) < 0.3


def test_reproducible_runs_repeat_and_are_not_private(capsys):
    first, second = (ran(name, "privacy.reproducible=true") for name in ("a", "b"))
    np.testing.assert_array_equal(adapter(first), adapter(second))
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith("NOT PRIVATE")
    assert out.splitlines()[-1].startswith("NOT PRIVATE")
    assert stated(first)["private"] is False
    assert stated(first)["reasons"]
    card = (first / "adapter" / "README.md").read_text().split("---\n")[2].split()
    assert card[:3] == ["#", "NOT", "PRIVATE:"]


@pytest.mark.parametrize("strategy", ["user_wise", "group_privacy", "matrix_factorization"])
def test_one_node_and_one_node_a_user_agree(strategy):
    options = [f"strategy={strategy}", "privacy.reproducible=true", "optimizer=sgd"]
    one, many = ran("one", *options), ran("many", *options, "runtime.nodes=40")
    np.testing.assert_allclose(adapter(one), adapter(many), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sink", ["jsonl", "wandb"])
def test_a_strict_run_tells_nothing_of_its_users(monkeypatch, sink):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    folder = ran("run", "cohort=20", "rounds=3", f"track={sink}")
    for row in logged(folder):
        for key in row:
            assert (
                metric_kinds.kind(key.removeprefix("summary/"))
                is not metric_kinds.Kind.SIMULATION_ONLY
            )
    content = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file()).lower()
    for secret in (
        small_world.MARKER_USER,
        small_world.MARKER_TEXT,
        "sender-0",
        "_only/",
    ):
        assert secret.encode() not in content
    assert "simulation_only" not in json.dumps(stated(folder)["not_covered"])


def test_what_only_a_simulation_may_see_is_switched_on_and_said(capsys):
    folder = ran("run", "track.simulation_only=true")
    rounds = [row for row in logged(folder) if "simulation_only/cohort_size" in row]
    assert [row["round"] for row in rounds] == [1, 2]
    assert "simulation_only" in json.dumps(stated(folder)["not_covered"])
    assert "simulation_only: users" in capsys.readouterr().out


def test_an_interrupted_run_goes_on_and_counts_every_intent(monkeypatch, capsys):
    """Interrupted after the intent of round 3 of 4: that round is spent, one is left."""
    fold = server_strategy.PrivateStrategy._aggregated

    def interrupted(self, replies):
        if self.number == 3:
            raise KeyboardInterrupt
        return fold(self, replies)

    with monkeypatch.context() as patch:
        patch.setattr(server_strategy.PrivateStrategy, "_aggregated", interrupted)
        arguments = small_world.overrides("output=run", "rounds=4", "privacy.epsilon=5")
        assert cli.main(["run", *arguments]) == 130
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == "userdp: interrupted; resume with: userdp run resume=run"
    assert cli.main(["run", "resume=run"]) == 0
    warning, *lines = capsys.readouterr().err.splitlines()
    assert warning.startswith(COUNTED)
    assert all(line.startswith("round ") for line in lines)
    account = ledger.verify(Path("run/ledger.jsonl"))
    assert (account.rounds, account.unfinished) == (4, (3,))
    told = stated(Path("run"))
    assert told["rounds"] == 4
    assert 4.9 < told["epsilon"] <= 5
    assert [row["round"] for row in logged(Path("run")) if "release_norm" in row] == [1, 2, 4]
    assert cli.main(["verify", "run"]) == 0


@pytest.mark.parametrize("optimizer", ["adam_bc", "scale_then_privatize"])
def test_a_stopped_run_of_an_optimiser_for_noisy_gradients_goes_on(monkeypatch, optimizer):
    fold = server_strategy.PrivateStrategy._aggregated

    def interrupted(self, replies):
        if self.number == 2:
            raise KeyboardInterrupt
        return fold(self, replies)

    with monkeypatch.context() as patch:
        patch.setattr(server_strategy.PrivateStrategy, "_aggregated", interrupted)
        more = [f"optimizer={optimizer}", "output=run", "rounds=3"]
        assert cli.main(["run", *small_world.overrides(*more)]) == 130
    assert cli.main(["run", "resume=run"]) == 0
    assert cli.main(["verify", "run"]) == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_node_that_fails_twice_stops_the_run(monkeypatch, capsys, strategy):
    """Exit code 1, one line; resumed, the run ends, and the failed round stays spent."""

    def failing(self, *_):
        raise RuntimeError(small_world.MARKER_TEXT)

    with monkeypatch.context() as patch:
        patch.setattr("userdp.clients.app.Host.train", failing)
        options = ["output=run", f"strategy={strategy}", "strategy.records_per_user=2", "cohort=20"]
        assert cli.main(["run", *small_world.overrides(*options)]) == 1
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("userdp: stopped: Round 1: ")
    assert err.rstrip().endswith("userdp run resume=run")
    assert small_world.MARKER_TEXT not in err
    assert cli.main(["run", "resume=run"]) == 0
    assert stated(Path("run"))["rounds"] == 2


def test_a_killed_run_goes_on(elsewhere):
    """SIGKILL between two rounds; resumed without a round that is spent twice."""
    arguments = small_world.overrides("output=run", "rounds=150", "privacy.noise_multiplier=20")
    command = [sys.executable, "-m", "userdp.sim.cli", "run", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path, deadline = elsewhere / "run" / "ledger.jsonl", time.monotonic() + 90
    while not (path.exists() and path.read_bytes().count(b'"done"') >= 5):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    spent = ledger.verify(path).rounds
    assert 5 <= spent < 150
    assert cli.main(["run", "resume=run"]) == 0
    account = ledger.verify(path)
    assert account.rounds == 150
    assert len(account.unfinished) <= 1
    assert cli.main(["verify", "run"]) == 0


@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_other_formats_hold_the_same_users(elsewhere, file_format):
    """One set of records in two formats: the same reproducible adapter."""
    rows = small_world.rows()
    path = elsewhere / f"mail.{file_format}"
    if file_format == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        datasets.Dataset.from_list(rows).to_parquet(path)
    options = ["privacy.reproducible=true"]
    other = ran("other", *options, f"data={file_format}", f"data.path={path}")
    np.testing.assert_allclose(adapter(other), adapter(ran("lines", *options)), atol=1e-6)


def test_all_records_of_a_user(capsys):
    folder = ran("run", "strategy.records_per_user=all")
    assert stated(folder)["records_per_user"] == "all"
    assert "expected time   about" in capsys.readouterr().out  # held-out users tell of all records


def test_the_configuration_is_part_of_the_package():
    """Found as data of an installed package, not beside the working folder."""
    files = importlib.resources.files("userdp.conf")
    assert (files / "config.yaml").is_file()
    assert (files / "strategy" / "group_privacy.yaml").is_file()


def test_a_wheel_holds_the_configuration_and_plans_elsewhere(elsewhere):
    pytest.importorskip("setuptools", "77")  # the build's backend: pip would fetch it
    root = Path(cli.__file__).resolve().parents[1]
    source = elsewhere / "source"
    source.mkdir()
    for name in ("sim", "server", "clients", "conf", "analysis"):
        shutil.copytree(root / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (root / name).exists():
            shutil.copy(root / name, source)
    pip = [sys.executable, "-m", "pip"]
    wheels = [*pip, "wheel", str(source), "--no-deps", "--no-build-isolation", "-w", "w", "-q"]
    built = subprocess.run(wheels, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stderr
    [wheel] = Path("w").glob("*.whl")
    installed = [*pip, "install", "-q", "--no-deps", "--target", "site"]
    subprocess.run([*installed, str(wheel)], check=True, timeout=120)
    code = (
        "import userdp, sys; from userdp.sim import cli; "
        "print(userdp.__file__); cli.main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "plan", "privacy.users=1000", "cohort=50", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(elsewhere / "site")}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True, env=environment
    )
    place, _, told = done.stdout.partition("\n")
    assert place.startswith(str(elsewhere))
    assert json.loads(told)["sampling_rate"] == 0.05
