"""The exposure figure shows the mean canary of each run, from files that a run writes."""

from __future__ import annotations

import numpy as np
import pytest

from helpers import run_folders
from userdp.analysis.aggregates import canary_exposure as exposure_table
from userdp.analysis.aggregates import seed_groups
from userdp.analysis.report.figures import canary_exposure
from userdp.sim.run.simulation_only import canary_exposure as exposure_file
from userdp.sim.run_folder import reader


def test_exposure_is_the_mean_canary_of_the_last_round_over_seeds(tmp_path):
    """Beside 1 / ln 2, which is what a mean comes to where nothing was learned."""
    ranks = {1: (1, 512, 1024), 2: (256, 256, 256), 3: (1, 1, 1)}
    for seed, after in ranks.items():
        path = run_folders.write(tmp_path / str(seed), seed=seed, data__canary_references=1023)
        by_round = {0: np.array([1, 1, 1]), 4: np.array(after)}
        exposure_file.write(path / exposure_table.FILE, by_round, 1023)
    runs = reader.complete([tmp_path])
    [plot] = canary_exposure.section(seed_groups.tasks(runs)).plots
    figures = {name: rest for name, _, *rest in plot.rows}
    assert figures["user_wise"] == pytest.approx([11 / 3, 2, 10, 3])  # bits (10, 1, 0), 2 and 10
    assert figures["nothing learned"][0] == pytest.approx(1 / np.log(2))
    [row] = exposure_table.table(runs)
    assert (row["bits_least"], row["bits_most"], row["bits_limit"]) == (0, 10, 10)
