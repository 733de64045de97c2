"""A run that diverges stops before its next intent, and its folder stays true."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from helpers import small_world
from userdp.clients.evaluation import heldout
from userdp.clients.training import cohort_update
from userdp.server import checkpoint
from userdp.server.optimizers import registry
from userdp.server.optimizers.server_optimizer import ServerOptimizer
from userdp.sim import cli
from userdp.sim.config import optimizer
from userdp.sim.run import time_estimate

pytestmark = pytest.mark.slow  # whole runs


def command(tmp_path, monkeypatch, *more):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
    return cli.main(["run", *small_world.overrides("output=run", "rounds=3", *more)])


def kinds(tmp_path):
    lines = (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()
    return [json.loads(line)["kind"] for line in lines]


DIVERGING = [  # and what is not finite then; rates above a million are refused, see `any_rate`
    (["optimizer.lr=1e6", "optimizer=sgd", "strategy.clip_norm=1e9"], "update on held-out"),
    (["optimizer.lr=1e30", "optimizer=sgd"], "update on held-out records"),
    (["optimizer.lr=1e30", "optimizer=adam", "schedule.average=0.9"], "update on held-out"),
    (["optimizer.lr=1e308", "optimizer=sgd"], "adapter or the state"),
    (["optimizer.lr=1e308", "optimizer=adam"], "adapter or the state"),
]


@pytest.fixture
def any_rate(monkeypatch):
    """Take the bound from the rate: what a step does must hold whatever the bounds are."""
    monkeypatch.setitem(optimizer._KINDS, "lr", float)


@pytest.mark.usefixtures("any_rate")
@pytest.mark.parametrize(("settings", "problem"), DIVERGING)
def test_a_diverging_run_spends_one_round_and_never_another(
    tmp_path, monkeypatch, capsys, settings, problem
):
    assert command(tmp_path, monkeypatch, *settings) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if "stopped: " in line]
    for part in (problem, "1 of 3 rounds", f"{float(settings[0].partition('=')[2]):g}"):
        assert part in line
    assert (kinds(tmp_path).count("intent"), kinds(tmp_path).count("done")) == (1, 1)
    assert not (tmp_path / "run" / "privacy_statement.json").exists()
    assert cli.main(["verify", "run"]) == 0
    assert "1 rounds intended, 0 of them without a release" in capsys.readouterr().out
    assert cli.main(["run", "resume=run"]) in (1, 2)
    assert kinds(tmp_path).count("intent") == 1
    assert "Traceback" not in capsys.readouterr().err


def test_the_last_round_is_held_to_the_same(tmp_path, monkeypatch, capsys):
    assert command(tmp_path, monkeypatch, "rounds=1", *DIVERGING[0][0]) == 1
    assert "held-out loss is nan" in capsys.readouterr().err
    assert not (tmp_path / "run" / "adapter").exists()


def test_a_run_whose_every_unit_would_fail_is_refused_before_its_folder_exists(
    tmp_path, monkeypatch, capsys
):
    assert command(tmp_path, monkeypatch, "strategy.local_lr=1e300") == 2
    assert "strategy.local_lr=1e+300" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_every_unit_is_tried_as_the_public_user_is(tmp_path, monkeypatch):
    """The public user takes the clients' own path, with the round's clip, steps and scale."""
    calls, whole = [], cohort_update.cohort_sum

    def noted(model, adapter, units, **options):
        calls.append(options)
        return whole(model, adapter, units, **options)

    monkeypatch.setattr(cohort_update, "cohort_sum", noted)
    monkeypatch.setattr(time_estimate, "minutes", lambda *_, **__: None)  # it trains a few, too
    settings = ["optimizer=scale_then_privatize", "strategy.local_steps=2", "rounds=2"]
    assert command(tmp_path, monkeypatch, *settings) == 0
    start, first, between, second = calls
    compared = ("clip_norm", "clipping_rule", "local")
    for name in compared:
        assert start[name] == first[name] == between[name] == second[name]
    assert first["scale"] is None
    assert torch.equal(between["scale"], second["scale"])


@pytest.mark.parametrize("simulated", [False, True])
def test_failed_units_are_told_in_simulations_alone(tmp_path, monkeypatch, capsys, simulated):
    """Every unit but the public user fails: how many did is private."""
    train = cohort_update.cohort_sum

    def cohort(model, adapter, units, **options):
        units = list(units)
        result = train(model, adapter, units, **options)
        if options.get("count_unclipped") is None:  # the public user's call names no such option
            return result
        figures = {**result.figures, "failed_units": len(units), "mean_update_norm": 0.0}
        return type(result)(total=0 * result.total, figures=figures)

    monkeypatch.setattr(cohort_update, "cohort_sum", cohort)
    assert command(tmp_path, monkeypatch, f"track.simulation_only={simulated}".lower()) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "failed" in line]
    assert len(told) == (3 if simulated else 0)
    assert all("simulation_only: round" in line for line in told)


def test_a_release_of_exactly_nothing_is_told(tmp_path, monkeypatch, capsys):
    whole = cohort_update.cohort_sum

    def cohort(model, adapter, units, **options):
        result = whole(model, adapter, units, **options)
        return type(result)(total=0 * result.total, figures=result.figures)

    monkeypatch.setattr(cohort_update, "cohort_sum", cohort)
    assert command(tmp_path, monkeypatch, "strategy=non_private", "rounds=1") == 0
    assert "Round 1 released exactly zero" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "adam_bc", "scale_then_privatize"])
@pytest.mark.parametrize("lr", [1e30, 1e39, 1e308])
def test_no_step_of_a_server_optimizer_raises(name, lr):
    """torch refuses numbers beyond float32: the adapter is then lost, and not the process."""
    server = ServerOptimizer(np.ones(3, np.float32), registry.maker(name, {"lr": lr}), lambda _: 1)
    for _ in range(3):
        server.step(np.full(3, 1e200), noise_std=1.0)
    assert not checkpoint.is_finite(server.state())


def test_a_loss_beyond_the_range_of_exp_has_an_infinite_perplexity():
    assert heldout.Evaluation(loss=800.0, tokens=1).perplexity == math.inf
    assert heldout.Evaluation(loss=1.0, tokens=1).perplexity == pytest.approx(math.e)
