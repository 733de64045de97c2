"""What Hydra composes: groups, defaults, interpolations, and a stored run with its changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import hydra_compose, validation
from userdp.sim.data.sources.shard import DESCRIPTION, Shard

GROUPS = {
    path.parent.name: [file.stem for file in path.parent.glob("*.yaml")]
    for path in (Path(hydra_compose.__file__).parents[2] / "conf").glob("*/*.yaml")
    if path.parent.name != "experiment"  # composed by the command that carries it out
}
FROM_OUTSIDE = {
    "data": ["jsonl", "csv", "parquet", "hub", "reddit", "fedllm_bench"],
    "model": ["local", "hub"],
}  # these need a path


@pytest.mark.parametrize(
    ("group", "option"), [(group, option) for group, names in GROUPS.items() for option in names]
)
def test_every_option_of_every_group_composes(group, option, tmp_path):
    path = [f"{group}.path=x"] if option in FROM_OUTSIDE.get(group, []) else []
    if (group, option) == ("data", "shard"):  # what a shard tells is read with the configuration
        path = [f"data.path={tmp_path}"]
        whole = Shard(cut="0" * 32, part=0, parts=1, data_format="jsonl", data={}, words=())
        (tmp_path / DESCRIPTION).write_bytes(whole.json())
    asked, _ = hydra_compose.settings([f"{group}={option}", *path])
    assert hasattr(asked, group)


def test_the_default_is_one_private_run():
    asked, _ = hydra_compose.settings([])
    assert (asked.strategy.name, asked.privacy.epsilon) == ("user_wise", 8.0)
    assert not asked.privacy.reproducible
    assert not asked.track.simulation_only


def test_a_noise_multiplier_takes_the_place_of_the_default_target():
    asked, _ = hydra_compose.settings(["privacy.noise_multiplier=2.5"])
    assert (asked.privacy.epsilon, asked.privacy.noise_multiplier) == (None, 2.5)


def test_non_private_has_neither():
    asked, _ = hydra_compose.settings(["strategy=non_private"])
    assert (asked.privacy.epsilon, asked.privacy.noise_multiplier) == (None, None)


def test_two_runs_get_two_folders():
    folders = {hydra_compose.settings([])[0].output for _ in range(3)}
    assert len(folders) == 3


def test_a_stored_configuration_comes_back_as_it_was(tmp_path):
    """Round trip through config.yaml, every group changed."""
    overrides = ["strategy=group_privacy", "privacy.epsilon=2", "optimizer=sgd", "model.lora.r=3"]
    asked, config = hydra_compose.settings(overrides)
    OmegaConf.save(OmegaConf.create(dict(validation.resolved(config))), tmp_path / "config.yaml")
    again, _ = hydra_compose.settings([f"resume={tmp_path}"])
    assert again.resume == str(tmp_path)
    assert {**vars(again), "resume": None} == vars(asked)
    assert again.folder == tmp_path
    changed, _ = hydra_compose.settings([f"resume={tmp_path}", "engine.max_tokens=512"])
    assert changed.engine.max_tokens == 512
    assert changed.privacy == asked.privacy


@pytest.mark.parametrize("item", ["rounds", "rounds=[", "=3", "a b=1"])
def test_what_is_no_override_is_named(item):
    with pytest.raises(ConfigurationError) as caught:
        hydra_compose.settings(["cohort=5", item])
    assert str(caught.value).startswith(f"{item}: is not of the form name=value")


def test_jobs_are_the_product_of_the_choices():
    jobs = hydra_compose.jobs(["a=1,2", "b=x,y", "c=3", "hydra.sweep.dir=z"])
    assert jobs == [[f"a={a}", f"b={b}", "c=3"] for a in "12" for b in "xy"]


def test_an_experiment_brings_its_choices_and_the_command_goes_before_them():
    every = hydra_compose.jobs(["+experiment=grid"])
    assert len(every) == 2 * 3 * 4 * 3
    for job in every[:: len(every) // 3]:
        hydra_compose.settings(job)
    fewer = hydra_compose.jobs(["+experiment=grid", "seed=7", "rounds=3,4"])
    assert len(fewer) == 2 * 3 * 4 * 2
    assert all("seed=7" in job for job in fewer)


@pytest.mark.slow
def test_grids_of_an_experiment_are_products_one_after_the_other():
    """Counted by hand: see the grids in conf/experiment."""
    place = ["data.path=x", "model.path=y"]
    study = hydra_compose.jobs(["+experiment=study", *place])
    assert len(study) == 36 + 6 + 6 + 1 + 10 + 3 + 8
    assert len(hydra_compose.jobs(["+experiment=full", *place])) == 432 + 36 + 72
    asked = [hydra_compose.settings(job)[0] for job in study]
    assert sum(one.privacy.group_bound == "lemma" for one in asked) == 3
    assert sum(one.strategy.name == "non_private" for one in asked) == 8
    assert len({str(replace(one, output="")) for one in asked}) == len(study)  # none twice
    fewer = hydra_compose.jobs(["+experiment=study", *place, "seed=7"])
    assert len(fewer) == 12 + 2 + 6 + 1 + 10 + 3 + 4


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ("+experiment=nowhere", "experiment/nowhere"),
        ("hydra.sweep.subdir=x", "job folders are numbered"),
        ("hydra/sweeper=basic", "a grid"),
        ("seed=interval(0,1)", "list the values"),
    ],
)
def test_what_no_sweep_can_do_is_refused(item, told):
    with pytest.raises(ConfigurationError, match=told):
        hydra_compose.jobs([item])


def test_a_comparison_is_sent_to_its_own_command():
    with pytest.raises(ConfigurationError, match="userdp compare"):
        hydra_compose.settings(["+experiment=selections"])
