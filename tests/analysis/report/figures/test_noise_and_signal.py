"""Noise and signal norms, estimated from releases whose true values are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from helpers import run_folders
from userdp.analysis.report.figures import noise_and_signal
from userdp.sim.run_folder import reader


def test_noise_and_signal_are_those_that_the_releases_were_made_of(sweep_runs):
    run = next(run for run in sweep_runs if run.private)
    [(_, norm), *_] = noise_and_signal.noise_norms(run)
    assert math.isclose(norm, 0.01 * math.sqrt(run_folders.D))
    assert math.isclose(noise_and_signal.signal(run), 0.3)


def test_the_signal_estimate_is_unbiased_where_noise_hides_it_in_many_rounds():
    """Releases drawn with a signal of 0.2 under noise of norm 3.2: half the rounds show 0."""
    rng, size, std = np.random.default_rng(5), 1024, 0.1
    true = np.full(size, 0.2 / math.sqrt(size))
    rows = []
    for number in range(1, 4001):
        norm = float(np.linalg.norm(true + rng.normal(0, std, size)))
        square = max(0.0, norm**2 - size * std**2)
        figures = {"noise_std_on_mean": std, "release_norm": norm, "signal_norm": square**0.5}
        rows.append({"round": number, **figures})
    run = reader.Run(name="", folder=None, state="complete", rows=tuple(rows))
    assert noise_and_signal.signal(run) ** 2 == pytest.approx(0.04, abs=4 * 0.453 / math.sqrt(4000))
    assert np.mean([row["signal_norm"] ** 2 for row in rows]) > 0.15  # what cutting adds
