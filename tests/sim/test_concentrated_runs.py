"""Whole runs of strategy=concentrated: what they say, write, refuse, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from helpers import small_world
from helpers.whole_runs import check_refused
from userdp.analysis.aggregates import concentration_pass_rates
from userdp.server.statement import prose
from userdp.sim import cli

pytestmark = pytest.mark.slow  # whole runs

# All 22 users take part, and a large share is the test's: 16 who agree are enough. At tau = C all
# do, being within 2 C of one another.
FEASIBLE = [
    *("strategy=concentrated", "cohort=22", "privacy.users=22", "privacy.noise_multiplier=0.5"),
    *("strategy.test_share=0.9", "strategy.test_statistic=pairs", "strategy.min_weight=4"),
]
PASSING = [*FEASIBLE, "strategy.tau=1"]
HALTING = [*FEASIBLE, "strategy.tau=0.001", "strategy.on_failure=halt"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
    return tmp_path


def run(*overrides: str) -> int:
    return cli.main(["run", *small_world.overrides(*overrides)])


def logged(folder: str) -> list[dict]:
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def told(folder: str) -> dict:
    return json.loads((Path(folder) / "privacy_statement.json").read_text())


def test_a_run_whose_tests_pass(capsys):
    assert run(*PASSING, "rounds=3", "output=out") == 0
    out, err = capsys.readouterr()
    assert "tested for" in out
    assert "strategy.tau=1: a passed test adds" in err
    rounds = [line for line in logged("out") if "test_passed" in line]
    assert [line["test_passed"] for line in rounds] == [1, 1, 1]
    assert all(line["test_statistic"] >= 10 for line in rounds)
    assert not any("true" in key or "weight" in key for line in logged("out") for key in line)
    assert logged("out")[-1]["summary/test_pass_rate"] == 1
    assert cli.main(["verify", "out"]) == 0


def test_the_statement_names_test_branches_and_failure(capsys):
    run(*PASSING, "output=out")
    said, text = told("out"), prose.text(told("out"))
    details = said["mechanism_details"]
    assert said["epsilon_lower"] == 0 < said["epsilon"]
    assert details["tau"] == 1
    assert details["failure_probability"] > 0
    for part in (
        f"Where its statistic reaches {details['test_threshold']}, it is the mean of the users",
        f"else it is the sum with Gaussian noise of standard deviation "
        f"{details['update_noise_multiplier']} times the clip norm",
        "the noised test statistic of every round, and whether the round's test passed",
        "engine.max_lanes=1",
    ):
        assert part in text
    assert prose.text(said).split("\n\n")[0] in (Path("out/adapter/README.md")).read_text()


def test_a_failed_test_ends_a_halting_run_with_one_line_and_nothing_learned(capsys):
    assert run(*HALTING, "rounds=4", "output=out") == 0
    err = capsys.readouterr().err
    [line] = [line for line in err.splitlines() if "halt" in line]
    assert "halted" in line
    assert "1 of 4 rounds are spent" in line
    assert told("out")["rounds"] == 1
    assert "else it is nothing, and the run ends" in prose.text(told("out"))
    last = logged("out")[-1]
    assert last["summary/test_pass_rate"] == 0
    assert last["summary/heldout_loss"] == last["summary/heldout_loss_before"]
    lines = Path("out/ledger.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["header", "intent", "done"]


def test_a_halted_run_is_over_when_it_is_resumed(capsys):
    run(*HALTING, "rounds=4", "output=out")
    capsys.readouterr()
    assert cli.main(["run", "resume=out"]) == 0
    assert "1 of 4 rounds are spent" in capsys.readouterr().err
    assert told("out")["rounds"] == 1


def test_a_failed_test_falls_back_and_goes_on(capsys):
    assert run(*FEASIBLE, "strategy.tau=0.001", "rounds=3", "output=out") == 0
    rounds = [line for line in logged("out") if "test_passed" in line]
    assert [line["test_passed"] for line in rounds] == [0, 0, 0]
    assert all(line["release_norm"] > 0 for line in rounds)
    assert told("out")["rounds"] == 3


def test_a_run_resumed_with_another_radius_is_refused(capsys):
    run(*HALTING, "rounds=4", "output=out")
    capsys.readouterr()
    check_refused(capsys, ["run", "resume=out", "strategy.tau=0.004"], "tau", "0.004", "0.001")


def test_a_target_epsilon_is_met_with_the_failures(capsys):
    """z is a little above the user-wise one, since a hundredth of delta is the test's."""
    common = ["privacy.users=3000", "cohort=1000", "rounds=10", "privacy.epsilon=3", "--json"]
    plans = {}
    for strategy in ("user_wise", "concentrated"):
        assert cli.main(["plan", f"strategy={strategy}", *common]) == 0
        plans[strategy] = json.loads(capsys.readouterr().out)
    z, plain = (plans[s]["noise_multiplier"] for s in ("concentrated", "user_wise"))
    assert plain < z < 1.01 * plain
    assert 2.97 < plans["concentrated"]["epsilon"]["upper"] <= 3
    assert plans["concentrated"]["epsilon"]["lower"] == 0


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["strategy.tau=0"], ["strategy.tau=0", "above 0"]),
        (["strategy.tau=-1"], ["strategy.tau=-1"]),
        (["strategy.tau=small"], ["strategy.tau=small", "number"]),
        (["strategy.min_weight=2"], ["strategy.min_weight=2", "at least 4"]),
        (["strategy.min_weight=null"], ["strategy.min_weight=3"]),
        (["strategy.test_share=1"], ["strategy.test_share=1", "above 0 and below 1"]),
        (["strategy.test_statistic=mean"], ["strategy.test_statistic=mean", "weight, pairs"]),
        (["strategy.on_failure=stop"], ["strategy.on_failure=stop", "fallback, halt"]),
        (["+strategy.clip_quantile=0.5"], ["strategy.clip_quantile=0.5", "concentrated"]),
        (["+strategy.cohort_max=5"], ["strategy.cohort_max=5", "concentrated"]),
        (["privacy.accountant=edgeworth"], ["privacy.accountant=edgeworth", "may fail"]),
        (["privacy.epsilon=40"], ["epsilon", "finer than noise can be drawn"]),
        ([], ["strategy.min_weight=4", "users who agree", "cohort=6"]),
    ],
    ids=str,
)
def test_a_wrong_configuration_ends_in_one_line(capsys, overrides, parts):
    asked = ["strategy=concentrated", "strategy.min_weight=4", *overrides, "output=out"]
    check_refused(capsys, ["run", *small_world.overrides(*asked)], *parts)
    assert not Path("out").exists()


@pytest.mark.parametrize("strategy", ["user_wise", "group_privacy", "non_private"])
def test_other_strategies_refuse_its_options(capsys, strategy):
    asked = [f"strategy={strategy}", "+strategy.tau=0.1"]
    check_refused(capsys, ["run", *small_world.overrides(*asked)], "strategy.tau=0.1", strategy)


def test_a_bare_rate_says_too_little_for_it(capsys):
    asked = ["strategy=concentrated", "plan.sampling_rate=0.01", "privacy.delta=1e-6"]
    check_refused(capsys, ["plan", *asked], "plan.sampling_rate=0.01", "privacy.users")


def test_the_table_of_pass_rates_reads_the_runs_of_a_sweep(capsys):
    shared = ["track.simulation_only=true", "rounds=2"]
    run(*PASSING, *shared, "output=sweep/0")
    run(*FEASIBLE, *shared, "strategy.tau=0.01", "strategy.records_per_user=1", "output=sweep/1")
    run("rounds=1", "output=sweep/2")  # user-wise: no row
    capsys.readouterr()
    first, second = concentration_pass_rates.rows(Path("sweep"))
    assert (first.data, first.records_per_user, first.tau, first.passed) == ("mail", "1", 0.01, 0)
    assert (second.records_per_user, second.tau, second.passed, second.rounds) == ("2", 1, 1, 2)
    assert first.true_passed == 0
    assert second.true_passed == second.weight == 1
    assert concentration_pass_rates.main(["sweep"]) == 0
    assert capsys.readouterr().out.count("\n") == 4
    assert concentration_pass_rates.main([str(Path("sweep/2"))]) == 2
    assert yaml.safe_load(Path("sweep/1/config.yaml").read_text())["strategy"]["tau"] == 0.01
