"""Which runs form a cell, and how cells and tasks are named and scored."""

from __future__ import annotations

from helpers import run_folders
from userdp.analysis.aggregates import seed_groups, series
from userdp.sim.run_folder import reader


def test_runs_that_differ_in_seeds_or_engine_form_one_cell(tmp_path):
    run_folders.write(tmp_path / "a", seed=1, engine__max_lanes=1)
    run_folders.write(tmp_path / "b", seed=2, engine__max_lanes=8)
    run_folders.write(tmp_path / "c", seed=2, optimizer__lr=0.02)
    [task] = seed_groups.tasks(reader.read(tmp_path))
    assert sorted(len(cell.runs) for cell in task.cells) == [1, 2]


def test_the_best_accuracy_is_the_highest(tmp_path):
    for lr, accuracy in ((0.1, 0.5), (0.2, 0.7)):
        settings = {"summary": {"heldout_accuracy": accuracy}, "optimizer__lr": lr}
        run_folders.write(tmp_path / str(lr), **settings)
    [task] = seed_groups.tasks(reader.read(tmp_path))
    [line] = series.series(task.private, lambda cell: cell.level).values()
    assert [cell.score.median for cell in line] == [0.7]


def test_group_privacy_by_the_lemma_has_a_name_of_its_own(tmp_path):
    run_folders.write(tmp_path / "tight", strategy="group_privacy", perplexity=80.0)
    bound = {"privacy__group_bound": "lemma"}
    run_folders.write(tmp_path / "lemma", strategy="group_privacy", perplexity=90.0, **bound)
    scores = {
        cell.strategy: cell.score.median
        for cell in seed_groups.tasks(reader.read(tmp_path))[0].cells
    }
    assert scores == {"group_privacy": 80.0, "group_privacy (lemma)": 90.0}


def test_tasks_are_named_by_what_differs_between_them(tmp_path):
    for number, (data, model) in enumerate((("mail", "small"), ("mail", "large"))):
        paths = {"data__path": f"in/{data}/data.jsonl", "model__path": f"models/{model}"}
        run_folders.write(tmp_path / str(number), **paths)
    assert [task.name for task in seed_groups.tasks(reader.read(tmp_path))] == ["small", "large"]
    [task] = seed_groups.tasks(reader.read(tmp_path / "0"))
    assert task.name == ""
    assert task.file("by k") == "by_k"
