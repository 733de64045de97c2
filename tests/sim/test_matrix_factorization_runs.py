"""Whole runs of matrix_factorization by the command: claim, statement, stop and resume, secrets."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

from helpers import small_world
from helpers.whole_runs import adapter, ran, stated
from userdp.server import strategy as server_strategy
from userdp.server.ledger import ledger
from userdp.server.mechanisms.matrix_factorization.mechanism import MatrixFactorization
from userdp.server.statement import prose, schema
from userdp.sim import cli

pytestmark = pytest.mark.slow  # whole runs

KIND = ["strategy=matrix_factorization", "strategy.records_per_user=2", "optimizer=sgd"]
SIX = [*KIND, "rounds=6", "privacy.epsilon=5"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
    return tmp_path


def interrupted(monkeypatch, number: int, *options: str) -> None:
    """A run in the folder ``run`` that is stopped after the intent of a round."""
    fold = server_strategy.PrivateStrategy._aggregated

    def stopping(self, replies):
        if self.number == number:
            raise KeyboardInterrupt
        return fold(self, replies)

    with monkeypatch.context() as patch:
        patch.setattr(server_strategy.PrivateStrategy, "_aggregated", stopping)
        assert cli.main(["run", *small_world.overrides("output=run", *options)]) == 130


def told_lines(capsys) -> str:
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("bands", ["null", "2"])
def test_the_claim_is_that_of_the_participations_and_is_verified(capsys, bands):
    folder = ran("run", *SIX, f"strategy.bands={bands}", "cohort=5")
    told = stated(folder)
    schema.validate(told)
    account = ledger.verify(folder / "ledger.jsonl")
    users, groups = told["declared_users"], told["rounds_per_event"]
    assert groups == (round(users / 5) if bands == "null" else 2)
    assert told["mechanism_details"]["participations"] == -(-6 // groups)
    assert told["rounds"] == account.rounds == 6
    assert 4.9 < told["epsilon"] <= 5
    rate = told["sampling"]["rate"]
    assert rate == (1 if bands == "null" else pytest.approx(10 / users))
    expected = users / groups if bands == "null" else 5
    assert told["denominator"] == pytest.approx(expected)
    coins = "" if bands == "null" else " with poisson coins"
    assert told["sampling"]["scheme"] == f"public groups{coins}"
    capsys.readouterr()
    assert cli.main(["verify", "run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == prose.text(told).split("\n\n")[0]
    text = prose.text(told)
    assert "correlated over the rounds" in text
    assert f"at most once in {groups} rounds" in text


def test_the_screen_names_groups_and_participations(capsys):
    ran("run", *SIX)
    [line] = [x for x in capsys.readouterr().out.splitlines() if x.startswith("  correlated")]
    assert "public groups, a user takes part 2 times at most: together one Gaussian of" in line


def test_a_reproducible_run_that_was_resumed_equals_the_whole_one(monkeypatch):
    """Stopped between two rounds, so that nothing was skipped."""
    options = [*SIX, "privacy.reproducible=true"]
    whole = ran("whole", *options)
    configure = server_strategy.PrivateStrategy.configure_train

    def stopping(self, *arguments):
        if self.ledger.next_round == 4:
            raise KeyboardInterrupt
        return configure(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(server_strategy.PrivateStrategy, "configure_train", stopping)
        assert cli.main(["run", *small_world.overrides("output=run", *options)]) == 130
    assert cli.main(["run", "resume=run"]) == 0
    np.testing.assert_array_equal(adapter(Path("run")), adapter(whole))


def test_an_interrupted_run_keeps_its_noise_to_itself_and_deletes_it_at_the_end(monkeypatch):
    interrupted(monkeypatch, 4, *SIX)
    noise = Path("run/checkpoint/noise")
    assert stat.S_IMODE(noise.stat().st_mode) == 0o600
    secret = noise.read_bytes().partition(b"\n")[2][:32]
    others = [path for path in Path("run").rglob("*") if path.is_file() and path != noise]
    assert not any(secret in path.read_bytes() for path in others)
    assert cli.main(["run", "resume=run"]) == 0
    assert not noise.exists()
    account = ledger.verify(Path("run/ledger.jsonl"))
    assert (account.rounds, account.unfinished) == (6, (4,))
    assert stated(Path("run"))["rounds"] == 6
    assert 4.9 < stated(Path("run"))["epsilon"] <= 5
    assert cli.main(["verify", "run"]) == 0


def test_a_run_stopped_in_its_last_round_ends_without_noise_to_go_on(monkeypatch):
    interrupted(monkeypatch, 6, *SIX)
    Path("run/checkpoint/noise").unlink()
    assert cli.main(["run", "resume=run"]) == 0
    assert not Path("run/checkpoint/noise").exists()


@pytest.mark.parametrize("lost", ["gone", "old", "cut"])
def test_lost_noise_ends_in_one_line(monkeypatch, capsys, lost):
    interrupted(monkeypatch, 3, *SIX)
    noise, before = Path("run/checkpoint/noise"), Path("run/ledger.jsonl").read_bytes()
    if lost == "gone":
        noise.unlink()
    elif lost == "cut":
        noise.write_bytes(noise.read_bytes()[:-8])
    else:
        old = noise.read_bytes()
        head, _, rows = old.partition(b"\n")
        noise.write_bytes(json.dumps({**json.loads(head), "number": 1}).encode() + b"\n" + rows)
    capsys.readouterr()
    assert cli.main(["run", "resume=run"]) == 2
    line = told_lines(capsys)
    assert line.startswith("userdp: error: resume: run/checkpoint/noise ")
    assert line.endswith("restore it, or start a new run.")
    assert Path("run/ledger.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("rounds=8", "rounds"),
        ("strategy.bands=2", "rounds_per_event"),
        ("strategy.objective=last", "mechanism_details.objective"),
        ("cohort=3", "rounds_per_event"),
    ],
)
def test_another_factor_is_refused_on_resume(monkeypatch, capsys, change, field):
    interrupted(monkeypatch, 3, *SIX)
    shutil.copy("run/checkpoint/noise", "kept")
    capsys.readouterr()
    assert cli.main(["run", "resume=run", change]) == 2
    assert f"{field}: " in told_lines(capsys)
    assert Path("kept").read_bytes() == Path("run/checkpoint/noise").read_bytes()


def test_noise_is_read_while_no_other_process_can_go_on(monkeypatch, capsys):
    """The noise that a resume has read must be of the ledger that it then holds."""
    interrupted(monkeypatch, 3, *SIX)
    path, told = Path("run/ledger.jsonl"), []
    load = MatrixFactorization.load_secrets

    def load_beside_another(*arguments, **options):
        with pytest.raises(ledger.LedgerError) as refusal:
            ledger.Ledger.resume(path, ledger.verify(path).header)
        told.append(str(refusal.value))
        load(*arguments, **options)

    monkeypatch.setattr(MatrixFactorization, "load_secrets", load_beside_another)
    capsys.readouterr()
    assert cli.main(["run", "resume=run"]) == 0
    assert [line.partition(" is ")[2][:6] for line in told] == ["in use"]


def test_local_steps_and_momentum_run_too():
    options = ["strategy.local_steps=2", "optimizer=momentum"]
    assert stated(ran("run", *SIX, *options))["local_steps"] == 2
