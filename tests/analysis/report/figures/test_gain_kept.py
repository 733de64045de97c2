"""The share of the non-private gain that a private run keeps, by hand."""

from __future__ import annotations

import pytest

from helpers import run_folders
from userdp.analysis.aggregates import seed_groups
from userdp.analysis.report.figures import gain_kept
from userdp.sim.run_folder import reader


def test_the_share_kept_is_of_the_best_non_private_run_with_equal_gradients(tmp_path):
    def run(name, loss, **settings):
        summary = {"heldout_loss": loss, "heldout_loss_before": 6.0}
        run_folders.write(tmp_path / name, cohort=100, summary=summary, **settings)

    run("private-1", 5.2, seed=1)
    run("private-2", 5.6, seed=2)
    run("many", 5.0, k=8)
    run("plain", 5.0, strategy="non_private")
    run("plain-worse", 5.5, strategy="non_private", optimizer__lr=1.0)
    run("plain-longer", 4.0, strategy="non_private", k=8)
    [few, many] = sorted(
        gain_kept.shares(seed_groups.tasks(reader.read(tmp_path))[0]).cells, key=lambda c: c.k
    )
    assert (few.score.low, few.score.median, few.score.high) == pytest.approx((0.4, 0.6, 0.8))
    assert many.score.median == pytest.approx(0.5)  # k = 8 beside 4.0, not beside 5.0
    [plot] = gain_kept.section(seed_groups.tasks(reader.read(tmp_path))).plots
    [(_, _, median, *_)] = plot.rows
    assert median == pytest.approx(0.6)  # the better of the two k


def test_without_equal_gradients_there_is_no_share(tmp_path):
    run_folders.write(tmp_path / "private", cohort=100)
    run_folders.write(tmp_path / "plain", cohort=50, strategy="non_private")
    assert not gain_kept.section(seed_groups.tasks(reader.read(tmp_path))).plots


def test_selections_of_one_epsilon_do_not_crowd_lines_of_several_epsilons(tmp_path):
    run_folders.write(tmp_path / "plain", cohort=100, strategy="non_private")
    for epsilon in (1.0, 8.0):
        run_folders.write(tmp_path / f"{epsilon}", cohort=100, epsilon=epsilon)
    run_folders.write(tmp_path / "longest", cohort=100, selection="longest", epsilon=8.0)
    [plot] = gain_kept.section(seed_groups.tasks(reader.read(tmp_path))).plots
    assert {name for name, *_ in plot.rows} == {"user_wise, random"}
