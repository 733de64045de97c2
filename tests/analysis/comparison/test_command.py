"""`userdp compare`: small comparisons end to end, resumption, dry runs and errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers import small_world
from userdp.analysis.comparison import command, jobs
from userdp.server.ledger import ledger
from userdp.sim import cli
from userdp.sim.config import hydra_compose
from userdp.sim.data import holdout
from userdp.sim.inputs import run_inputs
from userdp.sim.run import input_digests

pytestmark = pytest.mark.slow  # whole runs

SMALL = ["compare.selections=[random,longest]", "compare.seeds=[1,2]", "compare.epsilons=[3,8]"]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
    return tmp_path


def compare(*overrides: str) -> int:
    shared = [
        item
        for item in small_world.overrides()
        if not item.startswith(("strategy.records", "rounds"))
    ]
    return cli.main(["compare", *shared, "strategy.records_per_user=3", "rounds=1", *overrides])


def real_records(k: int) -> tuple[int, int]:
    """Training users of the small world, and their records up to k each, counted from its rows."""
    counts: dict[str, int] = {}
    for row in small_world.rows():
        counts[row["user_id"]] = counts.get(row["user_id"], 0) + 1
    train = [n for user, n in counts.items() if not holdout.user_held_out(0, user, 0.3)]
    return len(train), sum(min(n, k) for n in train)


@pytest.mark.slow
def test_a_comparison_runs_once_and_is_read_the_second_time(capsys, elsewhere):
    arguments = [*SMALL, "output=out"]
    assert compare(*arguments) == 0
    out, err = capsys.readouterr()
    table = [line for line in out.splitlines() if line.startswith("|")][2:]
    assert len(table) == 4 + 2
    assert sum("| 8 |" in line for line in table) == 2
    assert out == (elsewhere / "out/table.md").read_text()
    results = json.loads((elsewhere / "out/results.json").read_text())
    assert len(results["runs"]) == 8 + 4
    check_runs(elsewhere / "out", results)
    ledgers = {path: path.read_bytes() for path in elsewhere.rglob("ledger.jsonl")}
    assert compare(*arguments) == 0
    again, err = capsys.readouterr()
    assert again == out
    assert err.count("(was there)") == 12
    assert {path: path.read_bytes() for path in elsewhere.rglob("ledger.jsonl")} == ledgers


@pytest.mark.parametrize(
    ("strategy", "resample"),
    [("user_wise", None), ("group_privacy", True), ("group_privacy", False)],
)
@pytest.mark.parametrize("selection", ["random", "shortest"])
def test_real_gradients_are_counted_records(elsewhere, strategy, resample, selection):
    """q times the slots that hold a record: all slots only where empty ones are refilled."""
    setup = jobs.setup([*small_world.overrides(), "strategy.records_per_user=3"])
    job = jobs.Job(strategy=strategy, resample=resample, selection=selection, epsilon=3.0, seed=1)
    users, capped = real_records(k=3)
    settings, _ = setup.settings(job)
    gradients = command.gradients_a_round(settings, run_inputs.build(settings))
    assert gradients == pytest.approx(6 / users * (3 * users if resample else capped))


@pytest.mark.parametrize("simulated", [False, True])
def test_private_counts_are_told_to_simulations_alone(capsys, elsewhere, monkeypatch, simulated):
    """Without them, no private record is scored or counted: the host of the records is not made."""
    hosted, host = [], command.node_setup.host

    def noted(*arguments):
        hosted.append(arguments)
        return host(*arguments)

    monkeypatch.setattr(command.node_setup, "host", noted)
    one = ["compare.selections=[high_perplexity]", "compare.strategies=[user_wise]"]
    one += ["compare.seeds=[1]", "compare.epsilons=[3]", "privacy.users=40"]
    more = ["track.simulation_only=true"] if simulated else []
    assert compare(*one, *more, "--dry-run") == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert bool(hosted) is simulated
    assert first.startswith("user_wise-high_perplexity-eps3-seed1")
    assert ("real gradients" in first) is simulated


def check_runs(folder: Path, results: dict) -> None:
    """Every run kept its claim; the composed epsilon is above the largest and at most the sum."""
    claims = []
    for job in results["runs"]:
        statement = json.loads((folder / job["folder"] / "privacy_statement.json").read_text())
        assert (statement["strategy"], statement["selection"]) == (
            job["strategy"],
            job["selection"],
        )
        assert statement["epsilon"] <= job["epsilon"]
        claims.append(statement["epsilon"])
    assert max(claims) < results["epsilon_of_all_runs"] <= sum(claims)


@pytest.mark.slow
def test_an_interrupted_run_is_resumed_and_a_changed_one_refused(capsys, elsewhere, monkeypatch):
    one = ["compare.selections=[longest]", "compare.strategies=[user_wise]", "compare.seeds=[1]"]
    arguments = [*one, "compare.epsilons=[3]", "output=out"]
    with monkeypatch.context() as patch:  # as if it had been stopped just before the statement
        patch.setattr(input_digests, "delete", lambda _: None)
        assert compare(*arguments) == 0
    folder = elsewhere / "out/user_wise-longest-eps3-seed1"
    (folder / "privacy_statement.json").unlink()
    assert compare(*arguments) == 0
    assert (folder / "privacy_statement.json").exists()
    assert ledger.verify(folder / "ledger.jsonl").rounds == 1  # spent once
    capsys.readouterr()
    assert compare(*arguments, "cohort=5") == 2
    assert "another cohort" in capsys.readouterr().err


@pytest.mark.slow
def test_a_dry_run_writes_nothing(capsys, elsewhere):
    assert compare(*SMALL, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "8 runs with all seeds, then 4 of the best" in out
    assert "training and scoring: about" in out
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=3", "seed=3"),
        ("strategy=user_wise", "strategy=user_wise"),
        ("privacy.epsilon=3", "privacy.epsilon=3"),
        ("compare.seeds=[1,1]", "compare.seeds"),
        ("compare.seeds=[]", "compare.seeds"),
        ("compare.selections=[best]", "best"),
        ("compare.epsilons=[3,-1]", "epsilon"),
        ("compare.clip_norm.group=1", "compare.clip_norm"),
        ("compare.nothing=3", "compare.nothing"),
        ("--fast", "--fast"),
    ],
)
def test_invalid_comparisons_end_in_one_line(capsys, elsewhere, override, message):
    assert compare(override, "output=out") == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (elsewhere / "out").exists()


def test_a_seed_changes_the_adapter_and_not_who_is_held_out(elsewhere):
    def built(*overrides: str) -> run_inputs.RunInputs:
        return run_inputs.build(hydra_compose.settings(small_world.overrides(*overrides))[0])

    first, second, other = built("seed=1"), built("seed=2"), built("data.seed=1")
    keys = [set(inputs.corpus.heldout.user_keys.tolist()) for inputs in (first, second, other)]
    assert keys[0] == keys[1] != keys[2]
    assert not first.model.initial.equal(second.model.initial)
