"""Names that older versions wrote are read as today's, and every one of today's can be found."""

from __future__ import annotations

import importlib

import pytest

from userdp.server.mechanisms import registry
from userdp.sim.common import renamed


@pytest.mark.parametrize("name", renamed.RENAMED.values())
def test_a_name_of_today_stands_for_something(name):
    if name in registry.MECHANISMS:
        assert registry.find(name)
        return
    module, _, attribute = name.rpartition(".")
    assert hasattr(importlib.import_module(module), attribute)


def test_no_name_of_today_is_an_old_one():
    assert not set(renamed.RENAMED) & set(renamed.RENAMED.values())


def test_old_names_are_replaced_wherever_they_stand_and_nothing_else_is():
    old, new = next(iter(renamed.RENAMED.items()))
    values = {"a": {"_target_": old}, "b": [old, {"c": (old, 1.5)}], "d": None, old: "server"}
    before = repr(values)
    assert renamed.current(values) == {
        "a": {"_target_": new},
        "b": [new, {"c": [new, 1.5]}],
        "d": None,
        old: "server",
    }
    assert repr(values) == before


def test_what_is_current_stays_as_it_is():
    values = {"x": list(renamed.RENAMED.values()), "y": {"z": True}}
    assert renamed.current(values) == values
