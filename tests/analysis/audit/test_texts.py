"""Canary users with invented texts: the real engine moves the sum by C, a leaking one by more."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import audited, tiny
from userdp.analysis.audit import texts
from userdp.clients.training import cohort_update
from userdp.clients.training.memory import EngineSettings
from userdp.sim.data.population import Population

pytestmark = pytest.mark.slow  # whole runs

USERS = 12
OPTIONS = replace(audited.FAST, trials=500, users=USERS)


@pytest.fixture(scope="module")
def engine():
    source = np.random.default_rng(0)
    tokens = {
        str(i): [source.integers(1, tiny.VOCABULARY, source.integers(3, 12)).tolist()] * 2
        for i in range(USERS)
    }
    return texts.Engine(
        model=tiny.language_model(),
        population=Population.of(tokens),
        work=replace(tiny.WORK, max_tokens=16),
        settings=EngineSettings(max_tokens=128),
    )


def checked(engine, strategy="user_wise"):
    subject = audited.subject(strategy)
    found = texts.checks(subject, engine, OPTIONS, OPTIONS.randomness(), 1e-4, lambda _: None)
    return {finding.check: finding for finding in found}


@pytest.mark.parametrize("strategy", ["user_wise", "group_privacy", "discrete noise"])
def test_one_unit_moves_the_sum_by_the_clip_norm_and_no_more(engine, strategy):
    findings = checked(engine, strategy)
    moved = findings["sensitivity, invented texts"]
    assert 0.3 < moved.measured < 1 + 1e-5  # a user's slots need not point the same way
    assert not [name for name, finding in findings.items() if finding.flagged]


def test_lanes_that_see_each_other_are_caught(engine, monkeypatch):
    """The updates of a block, patched: a share of each reaches the next lane."""
    honest = cohort_update.block_updates

    def leaking(*arguments):
        updates, loss = honest(*arguments)
        return updates + 0.5 * updates.roll(1, 0), loss

    monkeypatch.setattr(cohort_update, "block_updates", leaking)
    findings = checked(engine)
    assert findings["sensitivity, invented texts"].flagged
    assert findings["sensitivity, invented texts"].measured > 1.1


def test_a_canary_that_is_in_scores_higher_where_there_is_hardly_any_noise(engine):
    subject = audited.subject("user_wise")
    loud = replace(
        subject, mechanism=replace(subject.mechanism, noise_multiplier=1e-6, cohort=60.0)
    )
    run = texts.play(loud, engine, 3, OPTIONS.randomness(), lambda _: None)
    assert run.scores[run.included].mean() > run.scores[~run.included].mean()
    assert math.isfinite(run.scores.sum())
    assert torch.is_tensor(engine.model.initial)
