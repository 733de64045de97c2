"""The base model is scored once for all runs with the same inputs, and again for others."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from helpers import small_world
from userdp.clients.evaluation import heldout
from userdp.sim import cli
from userdp.sim.run import time_estimate


def groups(folder: Path) -> list[str]:
    """The scores of groups of users before training."""
    lines = (folder / "groups.csv").read_text().splitlines()
    return [line for line in lines if line.startswith("0,")]


def test_runs_with_the_same_inputs_score_their_base_model_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(tmp_path / "cache"))
    whole, calls = heldout.evaluate, []

    def counted(model, adapter, *arguments, **options):
        calls.append(adapter.clone())
        return whole(model, adapter, *arguments, **options)

    monkeypatch.setattr(heldout, "evaluate", counted)
    monkeypatch.setattr(time_estimate, "minutes", lambda *_, **__: None)  # it scores a few, too
    results, usual = [], ["rounds=1", "track.simulation_only=true"]
    for changes in ([], [], ["model.seq_len=12"], ["data.seed=1"]):
        output = tmp_path / str(len(results))
        overrides = small_world.overrides(*usual, f"output={output}", *changes)
        before = len(calls)
        assert cli.main(["run", *overrides]) == 0
        lines = (output / "metrics.jsonl").read_text().splitlines()
        score = next(json.loads(line) for line in lines if "heldout_loss" in line)
        results.append((len(calls) - before, score, groups(output)))
    # before and after, else after alone; and each time a few records of the saved adapter
    assert [count for count, *_ in results] == [3, 2, 3, 3]
    assert results[0][1:] == results[1][1:]
    assert results[0][1] != results[2][1]
    assert len(results[0][2]) > 1


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_base_model_whose_loss_is_not_finite_is_refused_before_a_round(
    tmp_path, monkeypatch, capsys, loss
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(tmp_path / "cache"))
    damaged = heldout.Evaluation(loss=loss, tokens=1)
    monkeypatch.setattr(heldout, "evaluate", lambda *_, **__: damaged)
    assert cli.main(["run", *small_world.overrides("rounds=1", f"output={tmp_path}/run")]) == 2
    assert "loss on the held-out records" in capsys.readouterr().err
    ledger = (tmp_path / "run" / "ledger.jsonl").read_text()
    assert '"intent"' not in ledger
