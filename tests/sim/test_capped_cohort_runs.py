"""Whole runs with a capped cohort and an adaptive clip: stopped, resumed and verified."""

from __future__ import annotations

import json

import pytest

from helpers import small_world
from userdp.server.mechanisms import description
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim import cli


def logged(folder, key):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["round"]: row[key] for row in rows if key in row}


@pytest.mark.slow
def test_a_run_stopped_and_resumed_clips_as_an_uninterrupted_one(tmp_path, monkeypatch):
    """Through the command line, with replayed coins and noise."""
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
    options = ["strategy.clip_quantile=0.5", "strategy.clip_bit_noise=5", "rounds=4"]
    options += ["strategy.cohort_max=7", "privacy.reproducible=true"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert cli.main(["run", *small_world.overrides(*options, f"output={whole}")]) == 0
    draw = UserWise.draw

    def interrupted(self, source, number):
        if len(logged(parts, "clip_norm")) == 2:
            raise KeyboardInterrupt
        return draw(self, source, number)

    with monkeypatch.context() as patch:
        patch.setattr(UserWise, "draw", interrupted)
        assert cli.main(["run", *small_world.overrides(*options, f"output={parts}")]) == 130
    assert cli.main(["run", f"resume={parts}"]) == 0
    assert len(set(logged(whole, "clip_norm").values())) == 4
    for key in ("clip_norm", "unclipped_fraction", "release_norm"):
        assert logged(parts, key) == logged(whole, key)


@pytest.mark.slow
def test_a_run_with_cap_and_adaptive_clip_states_both_resumes_and_verifies(tmp_path, monkeypatch):
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
    folder = tmp_path / "run"
    options = ["strategy.cohort_max=7", "strategy.clip_quantile=0.5", "strategy.clip_bit_noise=3"]
    overrides = small_world.overrides(*options, f"output={folder}", "privacy.epsilon=8")
    assert cli.main(["run", *overrides]) == 0
    told = json.loads((folder / "privacy_statement.json").read_text())
    assert told["adjacency"] == "zero-out-one-user"
    assert told["sampling"]["cap"] == 7
    assert told["adaptive_clip"]["quantile"] == 0.5
    assert description.ADAPTED in told["released"]
    assert len(set(logged(folder, "clip_norm").values())) == 2
    assert cli.main(["run", f"resume={folder}", "rounds=2"]) == 2  # all spent
    assert cli.main(["verify", str(folder)]) == 0
