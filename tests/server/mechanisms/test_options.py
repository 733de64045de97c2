"""Options of a mechanism are exactly the keys that its file in conf/strategy adds."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from userdp.server.mechanisms import registry
from userdp.server.mechanisms.base import SET_BY_RUN
from userdp.sim.config.strategy import Strategy

FILES = sorted((Path(__file__).parents[3] / "conf" / "strategy").glob("*.yaml"))


def keys_of(path):
    """Name of the strategy in a file, and its keys with their values."""
    content = yaml.safe_load(path.read_text())
    values = content.get("strategy", content)  # a file for several groups nests it
    return values["name"], values


def test_every_mechanism_has_a_file_of_its_name():
    assert {path.stem for path in FILES} == set(registry.MECHANISMS)
    assert all(keys_of(path)[0] == path.stem for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_options_are_the_keys_that_the_file_adds(path):
    name, values = keys_of(path)
    common = {item.name for item in fields(Strategy)}
    assert set(values) - common == set(registry.find(name).options())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_value_in_the_file_is_the_default_of_its_option(path):
    name, values = keys_of(path)
    for option, item in registry.find(name).options().items():
        assert values[option] == item.default


def test_fields_that_a_run_sets_are_no_options():
    concentrated = registry.find("concentrated")
    set_by_run = {item.name for item in fields(concentrated) if item.metadata == SET_BY_RUN}
    assert {"failure_probability", "rounds_tested", "cohort_max"} <= set_by_run
    assert not set_by_run & set(concentrated.options())
