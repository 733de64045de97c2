"""Run folders that version 0.1 wrote: verify, report and resume go on working on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers import small_world
from helpers.whole_runs import adapter, stated
from userdp.server import strategy as server_strategy
from userdp.server.ledger import hash_chain, ledger
from userdp.sim import api, cli
from userdp.sim.common import renamed
from userdp.sim.common.table import Table
from userdp.sim.run_folder import composed_epsilon

pytestmark = pytest.mark.slow  # whole runs

OLD = Path(__file__).parents[1] / "old_runs"
COMPLETE = ["user_wise", "group_privacy", "concentrated", "matrix_factorization", "non_private"]
STOPPED = {"stopped_user_wise": 4, "stopped_matrix_factorization": 8}


@pytest.fixture(autouse=True)
def old_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder holds a copy, in which a resumed run may write."""
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
    copy = shutil.copytree(OLD, tmp_path / "runs")
    monkeypatch.chdir(copy)
    return copy


@pytest.mark.parametrize("name", [*COMPLETE, "sweep/0", "sweep/1"])
def test_the_claim_of_an_old_run_is_recomputed_from_its_ledger(capsys, name):
    assert cli.main(["verify", name]) == 0
    out = capsys.readouterr().out
    assert "2 rounds intended, 0 of them without a release" in out
    private = stated(Path(name))["private"]
    assert ("differentially private at user level" in out) == private
    assert ("NOT PRIVATE" in out) != private


def test_a_changed_statement_of_an_old_run_is_refused(capsys):
    path = Path("user_wise/privacy_statement.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "epsilon": 1.0}))
    assert cli.main(["verify", "user_wise"]) == 2
    assert "says epsilon=1.0" in capsys.readouterr().err


@pytest.mark.parametrize("name", STOPPED)
def test_a_stopped_run_is_verified_before_and_after_it_is_resumed(name, capsys):
    rounds = STOPPED[name]
    before = ledger.verify(Path(name) / "ledger.jsonl")
    assert (before.rounds, before.unfinished) == (3, (3,))
    assert cli.main(["verify", name]) == 0
    assert cli.main(["run", f"resume={name}"]) == 0, capsys.readouterr().err
    after = ledger.verify(Path(name) / "ledger.jsonl")
    assert (after.rounds, after.unfinished) == (rounds, (3,))
    assert after.header == before.header  # its history is not rewritten
    assert len(after.codes) == 2
    assert cli.main(["verify", name]) == 0
    statement = stated(Path(name))
    assert statement["private"]
    assert statement["rounds"] == rounds
    assert np.isfinite(adapter(Path(name))).all()
    assert not (Path(name) / "checkpoint" / "noise").exists()


def test_an_old_claim_keeps_its_meaning_and_tells_the_counted_number(capsys):
    assert cli.main(["verify", "user_wise"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "under adding or removing one user with all records, where the number of users" in told
    assert "22, was counted from the training data" in told


def test_a_resumed_run_keeps_its_mechanism(capsys):
    changed = ["resume=stopped_user_wise", "strategy.records_per_user=3"]
    assert cli.main(["run", *changed]) == 2
    assert "records_per_user: 2 in the ledger, 3 asked" in capsys.readouterr().err


def test_a_report_about_old_runs_shows_every_one_of_them():
    page = api.report(".", "page").read_text()
    for name in (*COMPLETE, *STOPPED, "sweep/0", "sweep/1"):
        assert name in page


def test_old_runs_are_read_from_python():
    run = api.load("group_privacy")
    assert run.statement == stated(Path("group_privacy"))
    assert list(run.frame.index) == [0, 1, 2]
    assert run.configuration["strategy.name"] == "group_privacy"
    sweep = api.load_sweep("sweep")
    assert list(sweep.frame["seed"]) == [1, 2]
    assert composed_epsilon.of_sweep(Path("sweep")).rounds == 4


def test_an_old_sweep_goes_on_without_running_a_complete_job_again(capsys):
    heads = [ledger.verify(Path(f"sweep/{job}/ledger.jsonl")).head for job in (0, 1)]
    overrides = json.loads(Path("sweep/sweep.json").read_text())["overrides"]
    assert cli.main(["run", "-m", *overrides, "output=sweep"]) == 0, capsys.readouterr().err
    assert "2 of 2 complete, 2 of them from before" in capsys.readouterr().out
    assert [ledger.verify(Path(f"sweep/{job}/ledger.jsonl")).head for job in (0, 1)] == heads


def test_every_renamed_class_can_be_imported():
    for old, new in renamed.RENAMED.items():
        if "." in new:
            assert Table("name", {}).find(new).__name__ == old.rpartition(".")[2]


def test_an_old_run_is_resumed_on_trust_once_and_bound_from_there_on(capsys):
    """Its version kept no digests of its inputs: a warning, and notes in the ledger."""
    path = Path("stopped_user_wise/ledger.jsonl")
    capsys.readouterr()
    stop_in_round(4)
    assert "kept no digests" in capsys.readouterr().err
    notes = ledger.verify(path).notes
    assert {hash_chain.INPUTS_UNKNOWN, hash_chain.INPUTS_BOUND} <= notes
    rows = [json.loads(line) for line in Path("mail.jsonl").read_text().splitlines()]
    rows[0]["text"] = "other words"
    Path("other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    other = ["resume=stopped_user_wise", "data.path=other.jsonl"]
    assert cli.main(["run", *other]) == 2
    assert "records are not those the run started with" in capsys.readouterr().err
    assert cli.main(["run", "resume=stopped_user_wise"]) == 0
    err = capsys.readouterr().err
    assert "kept no digests" not in err
    assert cli.main(["verify", "stopped_user_wise"]) == 0
    assert "whether this run was resumed with the records" in capsys.readouterr().out


def stop_in_round(number: int) -> None:
    add = server_strategy.PrivateStrategy._aggregated

    def stopping(self, replies):
        if self.number == number:
            raise KeyboardInterrupt
        return add(self, replies)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server_strategy.PrivateStrategy, "_aggregated", stopping)
        assert cli.main(["run", "resume=stopped_user_wise"]) == 130


@pytest.mark.parametrize("name", ["group_privacy", "user_wise"])
def test_what_an_old_run_wrote_without_noise_is_told(capsys, name):
    told = "values without noise"
    assert cli.main(["verify", name]) == 0
    assert (told in capsys.readouterr().out) == (name == "group_privacy")
    page = api.report(name, "page").read_text()
    assert (told in page) == (name == "group_privacy")


def test_what_an_old_version_did_not_record_is_named(capsys):
    assert cli.main(["verify", "user_wise"]) == 0
    out = capsys.readouterr().out
    assert "digests of adapter, model card and checkpoint: not recorded by the version" in out
