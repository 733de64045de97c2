"""The table of mechanisms: names, dotted names, and what is refused."""

from __future__ import annotations

import pytest

from userdp.server.mechanisms import registry
from userdp.server.mechanisms.base import Mechanism
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.common.errors import ConfigurationError


@pytest.mark.parametrize("name", list(registry.MECHANISMS))
def test_every_entry_is_a_mechanism_that_can_draw(name):
    mechanism = registry.find(name)
    assert issubclass(mechanism, Mechanism)
    assert not mechanism.__abstractmethods__


def test_a_dotted_name_needs_no_entry():
    assert registry.find("userdp.server.mechanisms.user_wise.UserWise") is UserWise


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigurationError, match=r"^strategy\.name=user_wide: ") as error:
        registry.find("user_wide")
    assert all(name in str(error.value) for name in registry.MECHANISMS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        "userdp.sim.common.rng.Secrets",  # another class
        "math.tau",  # no class
        "userdp.server.mechanisms.user_wise.UserWide",
        "no_such_package.Mechanism",
    ],
)
def test_a_dotted_name_of_anything_else_is_refused(name):
    with pytest.raises(ConfigurationError, match=rf"^strategy\.name={name}: "):
        registry.find(name)
