"""The comparison: its table against rows worked out by hand, and small comparisons end to end."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from helpers import small_world
from userdp.analysis.comparison import command, ranking
from userdp.analysis.comparison import jobs as comparison
from userdp.analysis.comparison.ranking import Cell
from userdp.server.ledger import ledger
from userdp.sim import cli
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import hydra_compose
from userdp.sim.data import holdout
from userdp.sim.inputs import run_inputs

SMALL = ["compare.selections=[random,longest]", "compare.seeds=[1,2]", "compare.epsilons=[3,8]"]


def cell(strategy: str, selection: str, epsilon: float, *perplexities: float) -> Cell:
    return Cell(
        strategy=strategy,
        selection=selection,
        epsilon=epsilon,
        gradients=120.04,
        perplexities=perplexities,
    )


CELLS = [
    cell("group_privacy", "random", 3, 35.0, 37.0, 36.0),
    cell("user_wise", "longest", 8, 29.0, 31.0),
    cell("user_wise", "random", 3, 33.0, 34.0, 35.0),
    cell("user_wise", "longest", 3, 33.9, 33.8, 34.0),
]


def test_the_table_by_hand():
    head, _, *rows = ranking.markdown(CELLS).splitlines()
    assert "simulation_only" in head
    assert rows == [
        "| user_wise | longest | 3 | 120.0 | 33.90 [33.80, 34.00] |",
        "| user_wise | random | 3 | 120.0 | 34.00 [33.00, 35.00] |",
        "| group_privacy | random | 3 | 120.0 | 36.00 [35.00, 37.00] |",
        "| user_wise | longest | 8 | 120.0 | 30.00 [29.00, 31.00] |",
    ]


def test_the_csv_holds_every_seed():
    rows = list(csv.reader(io.StringIO(ranking.comma_separated(CELLS))))
    assert rows[0][-3:] == ["perplexity_1", "perplexity_2", "perplexity_3"]
    assert rows[1][4:] == ["33.9", "33.9", "33.8", "34.0"]
    assert len(rows) == 5


def test_neighbours_of_one_epsilon_are_told_apart_by_the_larger_range():
    """.1 against .2 and 2; 2 against 2 and 2 does not exceed it; no line from epsilon 3 to 8."""
    lines = ranking.differences(CELLS)
    assert len(lines) == 2
    assert "by 0.10, larger range 2.00: within the range" in lines[0]
    assert "by 2.00, larger range 2.00: within the range" in lines[1]
    apart = ranking.differences([cell("a", "x", 3, 30, 31), cell("b", "y", 3, 32, 34)])
    assert apart == [
        "- epsilon 3: a, x before b, y: means differ by 2.50, larger range 2.00: exceeds the range"
    ]


def test_one_seed_proves_nothing():
    [line] = ranking.differences([cell("a", "x", 3, 30), cell("b", "y", 3, 40)])
    assert "no range" in line
    assert "exceeds" not in line


def test_the_best_is_taken_at_its_epsilon():
    assert ranking.best(CELLS, 3).selection == "longest"
    assert ranking.best(CELLS, 8).perplexities == (29.0, 31.0)


def asked(**changes: list) -> comparison.Comparison:
    values = {
        "strategies": ["user_wise", "group_privacy"],
        "selections": ["random", "longest"],
        "epsilons": [3.0, 8.0],
        "seeds": [1, 2],
        "resample": [True, False],
    }
    return comparison.Comparison(**{**values, **changes})


def test_the_grid_is_every_combination_once_seed_by_seed():
    jobs = comparison.grid(asked(), ["random", "longest"], [3.0])
    assert len(jobs) == len({job.name for job in jobs}) == (1 + 2) * 2 * 2
    assert [job.seed for job in jobs] == [1] * 6 + [2] * 6
    assert {job.resample for job in jobs if job.strategy == "user_wise"} == {None}


def test_winners_run_at_the_other_epsilons():
    cells = [
        cell("user_wise", "random", 3, 30, 32),
        cell("user_wise", "longest", 3, 30, 31),
        cell("group_privacy", "random", 3, 36, 38),
        cell("group_privacy (resample=false)", "longest", 3, 33, 38),
    ]
    jobs = comparison.winners(asked(), cells)
    assert [(job.label, job.selection, job.epsilon, job.seed) for job in jobs] == [
        ("user_wise", "longest", 8.0, 1),
        ("group_privacy (resample=false)", "longest", 8.0, 1),
        ("user_wise", "longest", 8.0, 2),
        ("group_privacy (resample=false)", "longest", 8.0, 2),
    ]
    assert comparison.winners(asked(epsilons=[3.0]), cells) == []


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
    return tmp_path


def compared(*overrides: str) -> int:
    world_only = [
        item
        for item in small_world.overrides()
        if not item.startswith(("strategy.records", "rounds"))
    ]
    return cli.main(["compare", *world_only, "strategy.records_per_user=3", "rounds=1", *overrides])


def real_records(k: int) -> tuple[int, int]:
    """Training users of the small world, and their records up to k each, counted from its rows."""
    counts: dict[str, int] = {}
    for row in small_world.rows():
        counts[row["user_id"]] = counts.get(row["user_id"], 0) + 1
    train = [n for user, n in counts.items() if not holdout.user_held_out(0, user, 0.3)]
    return len(train), sum(min(n, k) for n in train)


@pytest.mark.slow
def test_a_small_comparison_from_one_command_and_again(capsys, elsewhere):
    arguments = [*SMALL, "output=out"]
    assert compared(*arguments) == 0
    out, err = capsys.readouterr()
    table = [line for line in out.splitlines() if line.startswith("|")][2:]
    assert len(table) == 4 + 2
    assert sum("| 8 |" in line for line in table) == 2
    assert out == (elsewhere / "out/table.md").read_text()
    results = json.loads((elsewhere / "out/results.json").read_text())
    assert len(results["runs"]) == 8 + 4
    _check_runs(elsewhere / "out", results)
    ledgers = {path: path.read_bytes() for path in elsewhere.rglob("ledger.jsonl")}
    assert compared(*arguments) == 0
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
    """q times the slots that hold a record: all of them only where missing ones are refilled."""
    setup = comparison.setup([*small_world.overrides(), "strategy.records_per_user=3"])
    job = comparison.Job(
        strategy=strategy, resample=resample, selection=selection, epsilon=3.0, seed=1
    )
    users, capped = real_records(k=3)
    settings, _ = setup.settings(job)
    told = command.gradients_a_round(settings, run_inputs.build(settings))
    assert told == pytest.approx(6 / users * (3 * users if resample else capped))


def _check_runs(folder: Path, results: dict) -> None:
    """Every run kept its claim; all together cost more than one and at most their sum."""
    claims = []
    for job in results["runs"]:
        told = json.loads((folder / job["folder"] / "privacy_statement.json").read_text())
        assert (told["strategy"], told["selection"]) == (job["strategy"], job["selection"])
        assert told["epsilon"] <= job["epsilon"]
        claims.append(told["epsilon"])
    assert max(claims) < results["epsilon_of_all_runs"] <= sum(claims)


def test_an_interrupted_run_is_resumed_and_a_changed_one_refused(capsys, elsewhere):
    one = ["compare.selections=[longest]", "compare.strategies=[user_wise]", "compare.seeds=[1]"]
    arguments = [*one, "compare.epsilons=[3]", "output=out"]
    assert compared(*arguments) == 0
    folder = elsewhere / "out/user_wise-longest-eps3-seed1"
    (folder / "privacy_statement.json").unlink()  # as if it had been stopped just before
    assert compared(*arguments) == 0
    assert (folder / "privacy_statement.json").exists()
    assert ledger.verify(folder / "ledger.jsonl").rounds == 1  # spent once
    capsys.readouterr()
    assert compared(*arguments, "cohort=5") == 2
    assert "another cohort" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(capsys, elsewhere):
    assert compared(*SMALL, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "8 runs with all seeds, then 4 of the best" in out
    assert "at most about" in out
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "told"),
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
def test_what_cannot_be_compared(capsys, elsewhere, override, told):
    assert compared(override, "output=out") == 2
    err = capsys.readouterr().err
    assert told in err
    assert len(err.splitlines()) == 1
    assert not (elsewhere / "out").exists()


def test_the_clip_norm_can_differ_by_strategy(elsewhere):
    setup = comparison.setup([*small_world.overrides(), "compare.clip_norm.group_privacy=0.25"])
    norms = {
        job.strategy: setup.settings(job)[0].strategy.clip_norm
        for job in comparison.grid(setup.asked, ["random"], [3.0])
    }
    assert norms == {"user_wise": 1.0, "group_privacy": 0.25}


def test_a_seed_changes_the_adapter_and_not_who_is_held_out(elsewhere):
    def built(*overrides: str) -> run_inputs.RunInputs:
        return run_inputs.build(hydra_compose.settings(small_world.overrides(*overrides))[0])

    one, two, other = built("seed=1"), built("seed=2"), built("data.seed=1")
    keys = [set(here.corpus.heldout.user_keys.tolist()) for here in (one, two, other)]
    assert keys[0] == keys[1] != keys[2]
    assert not one.model.initial.equal(two.model.initial)


def test_a_classification_is_not_compared():
    with pytest.raises(ConfigurationError, match=r"data\.label=mood.*userdp run -m"):
        comparison.setup(["data=jsonl", "data.path=a", "data.label=mood", "data.classes=2"])
