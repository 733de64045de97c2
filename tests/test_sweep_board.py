"""One wandb run about a sweep: its table and frontier are those of the files, and nothing more."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import small_world
import wandb_file
from run_folders import folder

from analysis import folders, frontier
from sim import compose, sweep_board

GROUPS = [
    {"round": number, "grouping": "records", "group": "few", "users": 3, "tokens": 10,
     "loss": 5.0 - number / 30}
    for number in (0, 30)
]  # fmt: skip
EXPOSED = [{"round": n, "canary": 0, "rank": 2, "exposure_bits": 3.25 + n} for n in (0, 30)]


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    wandb_file.isolate(monkeypatch, tmp_path)


def sweep(path: Path) -> Path:
    """Two strategies at two epsilons, over two seeds and two k, and one run without privacy."""
    losses = {("user_wise", 1.0): 5.0, ("user_wise", 8.0): 4.0, ("group_privacy", 8.0): 3.5}
    for (name, epsilon), loss in losses.items():
        for seed in (0, 1):
            for k in (1, 2):
                got = {"heldout_loss": loss + seed + k / 10, "simulation_only/train_loss": 7.5}
                made = folder(path / f"{name}-{epsilon}-{seed}-{k}", strategy=name, epsilon=epsilon,
                              summary=got, seed=seed)  # fmt: skip
                text = (made / "config.yaml").read_text()
                text = text.replace("records_per_user: 2", f"records_per_user: {k}")
                (made / "config.yaml").write_text(text)
    folder(path / "free", strategy="non_private", epsilon=None, summary={"heldout_loss": 3.0},
           tables={"groups.csv": GROUPS, "exposure.csv": EXPOSED})  # fmt: skip
    return path


def settings(*more: str):
    return compose.settings(small_world.overrides("track=wandb", *more))[0]


def test_the_frontier_takes_each_strategys_best_setting_after_averaging_seeds(tmp_path):
    lines = frontier.lines(frontier.rows(folders.of_sweep(sweep(tmp_path))), "heldout_loss")
    assert lines == {
        "group_privacy": [(8.0, pytest.approx(3.5 + 0.5 + 0.1))],
        "non_private": [(1.0, 3.0), (8.0, 3.0)],
        "user_wise": [(1.0, pytest.approx(5.6)), (8.0, pytest.approx(4.6))],
    }


def test_the_best_accuracy_is_the_highest():
    row = {"strategy": "user_wise", "epsilon": 1.0, "seed": 0}
    rows = [{**row, "clip_norm": c, "heldout_accuracy": a} for c, a in ((1, 0.5), (2, 0.7))]
    assert frontier.lines(rows, "heldout_accuracy") == {"user_wise": [(1.0, 0.7)]}
    assert frontier.lines(rows, "heldout_loss") == {}


def logged(path: Path) -> tuple[list[dict], dict]:
    wandb_file.wait_for_files()
    return wandb_file.history(path), wandb_file.summary(path)


def tables(path: Path) -> dict[str, dict]:
    """What wandb put on disk for each table, by the start of its name."""
    found = path.glob("wandb/offline-run-*/files/media/table/**/*.table.json")
    return {file.name.split("_")[0]: json.loads(file.read_text()) for file in found}


def test_the_board_is_one_run_in_the_sweeps_group_with_its_table_and_plots(tmp_path):
    path = sweep(tmp_path / "mine")
    sweep_board.log(path, settings())
    [row], told = logged(path)
    run = next(r.run for r in wandb_file.records(path) if r.WhichOneof("record_type") == "run")
    assert (run.run_group, run.job_type, run.display_name) == (str(path), "sweep", "sweep mine")
    assert row["sweep._type"] == "table-file"
    assert row["sweep.nrows"] == 13
    assert any(key.startswith("frontier/heldout_loss") for key in row)
    assert told["runs"] == 13
    content = "".join(map(json.dumps, tables(path).values())) + json.dumps([row, told])
    assert "simulation_only" not in content
    assert "7.5" not in content
    assert tables(path)["sweep"]["columns"][:3] == ["run", "strategy", "epsilon"]


def test_groups_and_canaries_are_logged_only_where_that_is_on(tmp_path):
    path = sweep(tmp_path / "mine")
    sweep_board.log(path, settings("track.simulation_only=true"))
    [row], _ = logged(path)
    private = {"simulation_only/groups._type", "simulation_only/canaries._type"}
    assert private <= set(row)


def test_nothing_is_logged_by_another_sink_or_of_nothing(tmp_path):
    path = sweep(tmp_path / "mine")
    sweep_board.log(path, dataclasses.replace(settings(), track=settings("track=jsonl").track))
    sweep_board.log(tmp_path / "empty", settings())
    assert not list(tmp_path.rglob("wandb"))
