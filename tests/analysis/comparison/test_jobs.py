"""The runs of a comparison: all combinations, winners at later epsilons, and their settings."""

from __future__ import annotations

import pytest

from helpers import small_world
from userdp.analysis.comparison import jobs
from userdp.analysis.comparison.jobs import Comparison, Variant
from userdp.analysis.comparison.ranking import Cell
from userdp.sim.common.errors import ConfigurationError

VARIANTS = (
    Variant(strategy="user_wise"),
    Variant(strategy="group_privacy", resample=True),
    Variant(strategy="group_privacy", resample=False),
)


def comparison(**changes: list) -> Comparison:
    values = {
        "strategies": ["user_wise", "group_privacy"],
        "selections": ["random", "longest"],
        "epsilons": [3.0, 8.0],
        "seeds": [1, 2],
        "resample": [True, False],
    }
    return Comparison(**{**values, **changes})


def cell(strategy: str, selection: str, epsilon: float, *perplexities: float) -> Cell:
    return Cell(
        strategy=strategy,
        selection=selection,
        epsilon=epsilon,
        gradients=120.0,
        perplexities=perplexities,
    )


def test_the_grid_is_every_combination_once_seed_by_seed():
    grid = jobs.grid(comparison(), VARIANTS, ["random", "longest"], [3.0])
    assert len(grid) == len({job.name for job in grid}) == (1 + 2) * 2 * 2
    assert [job.seed for job in grid] == [1] * 6 + [2] * 6
    assert {job.resample for job in grid if job.strategy == "user_wise"} == {None}


def test_winners_run_at_the_other_epsilons():
    cells = [
        cell("user_wise", "random", 3, 30, 32),
        cell("user_wise", "longest", 3, 30, 31),
        cell("group_privacy", "random", 3, 36, 38),
        cell("group_privacy (resample=false)", "longest", 3, 33, 38),
    ]
    winners = jobs.winners(comparison(), VARIANTS, cells)
    assert [(job.label, job.selection, job.epsilon, job.seed) for job in winners] == [
        ("user_wise", "longest", 8.0, 1),
        ("group_privacy (resample=false)", "longest", 8.0, 1),
        ("user_wise", "longest", 8.0, 2),
        ("group_privacy (resample=false)", "longest", 8.0, 2),
    ]
    assert jobs.winners(comparison(epsilons=[3.0]), VARIANTS, cells) == []


def test_only_mechanisms_that_clip_record_slots_are_compared_by_resample():
    setup = jobs.setup([*small_world.overrides(), "compare.resample=[true,false]"])
    assert setup.variants == VARIANTS


def test_the_clip_norm_can_differ_by_strategy():
    setup = jobs.setup([*small_world.overrides(), "compare.clip_norm.group_privacy=0.25"])
    norms = {
        job.strategy: setup.settings(job)[0].strategy.clip_norm
        for job in jobs.grid(setup.comparison, setup.variants, ["random"], [3.0])
    }
    assert norms == {"user_wise": 1.0, "group_privacy": 0.25}


def test_a_classification_is_not_compared():
    with pytest.raises(ConfigurationError, match=r"data\.label=mood.*userdp run -m"):
        jobs.setup(["data=jsonl", "data.path=a", "data.label=mood", "data.classes=2"])
