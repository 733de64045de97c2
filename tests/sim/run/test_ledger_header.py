"""The code's hash covers the modules outside userdp that a run names."""

from __future__ import annotations

import pytest

from userdp.sim.config import hydra_compose
from userdp.sim.planning import planner
from userdp.sim.run import ledger_header

MODULE = """
from userdp.server.mechanisms.user_wise import UserWise

class Mine(UserWise):
    pass
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """The file of a module outside userdp."""
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "my_mechanism.py"
    file.write_text(MODULE)
    return file


def code(*overrides):
    settings, _ = hydra_compose.settings(["privacy.users=1000", "cohort=10", *overrides])
    return ledger_header.code(settings, planner.bare(settings).mechanism)


def test_a_changed_mechanism_outside_the_package_has_another_code(outside):
    first = code("strategy.name=my_mechanism.Mine")
    outside.write_text(MODULE + "# changed\n")
    second = code("strategy.name=my_mechanism.Mine")
    assert len({first, second, code()}) == 3


def test_the_code_of_a_run_inside_the_package_does_not_depend_on_its_settings():
    assert code() == code("strategy=group_privacy", "optimizer=adam_bc", "selection=longest")
