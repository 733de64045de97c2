"""The wandb run about a sweep holds the table and the plots of its files, and nothing private."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers import small_world, wandb_file
from helpers.run_folders import write
from userdp.analysis.report import wandb_summary
from userdp.sim.config import hydra_compose

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
    scores = {("user_wise", 1.0): 50.0, ("user_wise", 8.0): 40.0, ("group_privacy", 8.0): 35.0}
    for (name, epsilon), score in scores.items():
        for seed in (0, 1):
            for k in (1, 2):
                write(path / f"{name}-{epsilon}-{seed}-{k}", strategy=name, epsilon=epsilon, k=k,
                      perplexity=score + 10 * seed + k, seed=seed,
                      summary={"simulation_only/train_loss": 7.531246802468})  # fmt: skip
    write(path / "plain", strategy="non_private", perplexity=30.0, data__canary_references=1023,
          tables={"groups.csv": GROUPS, "exposure.csv": EXPOSED})  # fmt: skip
    return path


def track(*overrides: str):
    """Tracking settings, by wandb unless the overrides say otherwise."""
    return hydra_compose.settings(small_world.overrides("track=wandb", *overrides))[0].track


def logged(path: Path) -> tuple[list[dict], dict]:
    wandb_file.wait_for_files()
    return wandb_file.history(path), wandb_file.summary(path)


def tables(path: Path) -> dict[str, dict]:
    """Start of a table's name -> the table as wandb stored it."""
    files = path.glob("wandb/offline-run-*/files/media/table/**/*.table.json")
    return {file.name.split("_")[0]: json.loads(file.read_text()) for file in files}


def test_a_sweep_is_one_run_in_its_group_with_its_table_and_plots(tmp_path):
    path = sweep(tmp_path / "mine")
    wandb_summary.log(path, track())
    [row], summary = logged(path)
    run = next(r.run for r in wandb_file.records(path) if r.WhichOneof("record_type") == "run")
    assert (run.run_group, run.job_type, run.display_name) == (str(path), "sweep", "sweep mine")
    assert row["sweep._type"] == "table-file"
    assert row["sweep.nrows"] == 13
    assert summary["runs"] == 13
    content = "".join(map(json.dumps, tables(path).values())) + json.dumps([row, summary])
    assert "simulation_only" not in content
    assert "7.5312468" not in content  # no time stamp looks like it
    columns = tables(path)["sweep"]["columns"]
    assert columns[:6] == ["run", "strategy", "selection", "k", "seed", "epsilon"]
    assert "privacy.epsilon" in columns  # differs
    assert "rounds" not in columns  # the same in all


def test_its_lines_are_medians_over_seeds_at_each_lines_best_setting(tmp_path):
    """By hand: seeds are 10 apart, k = 1 is better by 1."""
    path = sweep(tmp_path / "mine")
    wandb_summary.log(path, track())
    [row], summary = logged(path)
    assert any(key.startswith("frontier/heldout_perplexity") for key in row)
    points = {(line, x): y for x, line, y in tables(path)["heldout"]["data"]}
    best = {("user_wise", 1): 56, ("user_wise", 8): 46, ("group_privacy", 8): 41}
    assert points == best | {("non-private", 1): 30, ("non-private", 8): 30}
    assert {key: summary[f"{key[0]}/epsilon_{key[1]}"] for key in best} == best


def test_groups_and_canaries_are_logged_only_where_that_is_on(tmp_path):
    path = sweep(tmp_path / "mine")
    wandb_summary.log(path, track("track.simulation_only=true"))
    [row], _ = logged(path)
    private = {"simulation_only/groups._type", "simulation_only/canaries._type"}
    assert private <= set(row)


def test_nothing_is_logged_by_another_sink_or_without_complete_runs(tmp_path):
    path = sweep(tmp_path / "mine")
    wandb_summary.log(path, track("track=jsonl"))
    wandb_summary.log(tmp_path / "empty", track())
    assert not list(tmp_path.rglob("wandb"))
