"""The expected time is what a run computes, at the measured time of a position."""

from __future__ import annotations

import numpy as np
import pytest

from helpers import small_world
from userdp.clients.models.language_model import LanguageModel
from userdp.sim.config import hydra_compose
from userdp.sim.run import base_score, prepare, runner, time_estimate

HOUR = 3600.0  # seconds of a trained position; a scored one takes a tenth


@pytest.fixture
def pace(monkeypatch):
    monkeypatch.setattr(
        time_estimate, "_pace", lambda *_: time_estimate._Pace(training=HOUR, scoring=HOUR / 10)
    )


def prepared(*words):
    settings, config = hydra_compose.settings(small_world.overrides(*words))
    return prepare.prepare(settings), config


def estimate(ready, **more):
    return time_estimate.minutes(ready.settings, ready.plan, ready.inputs, ready.engine, **more)


def counted(plain, sizes):
    def call(self, adapter, batch, *rest):
        sizes.append(batch.inputs.numel())
        return plain(self, adapter, batch, *rest)

    return call


def computed(monkeypatch, ready, config):
    """Positions, padding included, that a whole run trained and scored."""
    counts = {"gradients": [], "token_scores": []}
    for name, sizes in counts.items():
        plain = getattr(LanguageModel, name)
        monkeypatch.setattr(LanguageModel, name, counted(plain, sizes))
    runner.run(ready.settings, config, load=lambda *_: ready.inputs)
    return {name: sum(sizes) for name, sizes in counts.items()}


@pytest.mark.parametrize("strategy", ["user_wise", "group_privacy"])
def test_the_estimate_is_what_a_run_computes_within_a_third(monkeypatch, tmp_path, pace, strategy):
    words = (f"strategy={strategy}", "strategy.records_per_user=3", "rounds=30", "cohort=8")
    ready, config = prepared(*words, "eval_every=10", f"output={tmp_path}/run")
    told = estimate(ready, scores=1)
    done = computed(monkeypatch, ready, config)
    hours = done["gradients"] + done["token_scores"] / 10
    assert told / 60 == pytest.approx(hours, rel=1 / 3)


def test_scores_are_counted_one_by_one(pace, tmp_path):
    ready, _ = prepared("rounds=7", "eval_every=3", f"output={tmp_path}/run")
    often, _ = prepared("rounds=7", "eval_every=1", f"output={tmp_path}/run")
    heldout, length = ready.inputs.corpus.heldout, ready.settings.model.seq_len
    positions = sum(
        max(0, min(len(record), length) - 1)
        for user in range(len(heldout))
        for record in heldout.records(user)
    )
    one = positions * HOUR / 10 / 60
    assert estimate(ready, scores=1) - estimate(ready) == pytest.approx(one)
    assert estimate(often) - estimate(ready) == pytest.approx(4 * one)  # 7 scores against 3


def test_records_that_train_change_nothing(pace, tmp_path):
    ready, _ = prepared(f"output={tmp_path}/run")
    told = estimate(ready)
    train = ready.inputs.corpus.train
    emptied = train
    for user in range(len(train)):
        emptied = emptied.emptied(user)
    object.__setattr__(ready.inputs.corpus, "train", emptied)
    assert estimate(ready) == told


def test_all_records_are_counted_where_whole_users_are_held_out(pace, tmp_path):
    words = ("strategy.records_per_user=all", f"output={tmp_path}/run")
    ready, _ = prepared(*words)
    most = max(len(ready.inputs.corpus.heldout.records(user)) for user in range(5))
    fewer, _ = prepared("strategy.records_per_user=1", f"output={tmp_path}/run")
    assert most > 1
    assert estimate(ready) > estimate(fewer)


@pytest.mark.parametrize(
    ("users", "full", "counts"),
    [
        (100, 10**6, [1, 2, 4]),  # the third measurement takes 4 s
        (100, 20, [1, 2]),  # the second fills a stack
        (2, 10**6, [1, 2]),
    ],
)
def test_the_time_of_a_position_is_that_of_the_clock(monkeypatch, users, full, counts):
    """A clock that runs one second for each user, who has ten positions."""
    now, seen = [0.0], []
    monkeypatch.setattr(time_estimate.time, "perf_counter", lambda: now[0])

    def compute(some):
        seen.append(len(some))
        now[0] += len(some)
        return 10 * len(some)

    got = time_estimate._seconds(compute, [[np.arange(3)]] * users, full)
    assert got == pytest.approx(0.1)
    assert seen == counts


def test_the_score_of_the_base_model_is_known_once_it_was_computed(monkeypatch, tmp_path):
    monkeypatch.setenv("USERDP_CACHE", str(tmp_path / "cache"))
    ready, _ = prepared(f"output={tmp_path}/run")
    assert not base_score.known(ready)
    base_score.score(ready)
    assert base_score.known(ready)
