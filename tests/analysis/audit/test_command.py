"""`userdp audit`: what it prints and stores, its exit codes, and its one-line errors."""

from __future__ import annotations

import json

import pytest

from helpers import audited, small_world
from helpers.whole_runs import ran
from userdp.analysis.audit import broken, command
from userdp.sim import api, cli
from userdp.sim.run_folder.layout import RunFolder

pytestmark = pytest.mark.slow  # whole runs

QUICK = ("audit.trials=400", "audit.draws=100", "audit.count=40", "audit.seed=1")
CLIP_OFF = ("clip off", broken.KINDS["clip off"])


def test_the_table_names_claim_bounds_and_verdict(capsys):
    assert cli.main(["audit", *audited.SMALL, *QUICK]) == 0
    printed = capsys.readouterr().out
    assert "claimed for 20 rounds" in printed
    assert "No check contradicts the claim" in printed
    assert "BROKEN" not in printed


def test_json_holds_the_claim_and_all_findings_and_a_seed_repeats_them(capsys):
    outcomes = []
    for _ in range(2):
        assert cli.main(["audit", *audited.SMALL, *QUICK, "--json"]) == 0
        values = json.loads(capsys.readouterr().out)
        outcomes.append([(f["check"], f["measured"]) for f in values["findings"]])
    assert outcomes[0] == outcomes[1]
    assert values["broken"] is False
    assert 0 < values["epsilon"] <= 4
    assert all(0.999 < f["confidence"] < 1 for f in values["findings"] if f["confidence"])


def test_a_claim_that_is_contradicted_ends_in_exit_code_1(monkeypatch, capsys):
    honest = command.described

    def described(words):
        subject, *rest = honest(words)
        return broken.KINDS["clip off"](subject), *rest

    monkeypatch.setattr(command, "described", described)
    assert cli.main(["audit", *audited.SMALL, *QUICK]) == 1
    output = capsys.readouterr()
    assert "BROKEN" in output.out
    assert output.err.splitlines()[-1].startswith("userdp: stopped: audit: BROKEN: ")


def self_tested(monkeypatch, capsys, *kinds):
    """Exit code and outcomes of a self-test of these twins alone."""
    monkeypatch.setattr(broken, "KINDS", dict(kinds))
    code = cli.main(["audit", "--self-test", "--json", *audited.SMALL, *QUICK])
    return code, json.loads(capsys.readouterr().out)


def test_the_self_test_lists_the_honest_mechanism_and_every_twin(monkeypatch, capsys):
    code, outcomes = self_tested(monkeypatch, capsys, CLIP_OFF)
    assert code == 0
    assert [(o["name"], o["broken"]) for o in outcomes] == [
        ("user_wise", False),
        ("clip off", True),
    ]


def test_a_self_test_that_misses_a_fault_fails(monkeypatch, capsys):
    code, outcomes = self_tested(monkeypatch, capsys, ("no fault", lambda subject: subject))
    assert code == 1
    assert not outcomes[1]["broken"]


def test_the_table_of_a_self_test_names_what_caught_each_twin(monkeypatch, capsys):
    monkeypatch.setattr(broken, "KINDS", dict([CLIP_OFF]))
    assert cli.main(["audit", "--self-test", *audited.SMALL, *QUICK]) == 0
    printed = capsys.readouterr().out
    assert "clip off" in printed
    assert "sensitivity" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["audit.nothing=1"], "audit.nothing=1: no such option"),
        (["audit.trials=few"], "audit.trials=few: should be a valid integer"),
        (["audit.trials=10"], "audit.trials=10: should be at least 400"),
        (
            ["audit.false_alarms=0.5"],
            "audit.false_alarms=0.5: should be at least 1e-09 and at most 0.1",
        ),
        (["audit.canaries=birds"], "audit.canaries=birds: choose one of vectors, texts"),
        (["strategy=non_private"], "it claims no epsilon"),
        (["nowhere"], "nowhere"),
        (["nowhere", "rounds=3"], "name one run folder, or overrides, not both"),
        (["--quick"], "--quick: no such option"),
    ],
)
def test_a_wrong_argument_ends_in_one_line(capsys, arguments, message):
    assert cli.main(["audit", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_audit_of_a_run_is_stored_beside_its_claim(tmp_path, monkeypatch):
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
    folder = ran(tmp_path / "run", "rounds=2")
    values = api.audit(str(folder), *QUICK)
    assert json.loads(RunFolder(folder).audit.read_text()) == values
    statement = json.loads(RunFolder(folder).statement.read_text())
    assert values["epsilon"] == statement["epsilon"]
    assert values["rounds"] == 2
    changed = RunFolder(folder).config.read_text().replace("cohort:", "cohort: 3 #")
    RunFolder(folder).config.write_text(changed)
    assert cli.main(["audit", str(folder), *QUICK]) == 2
