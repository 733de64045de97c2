"""What is refused before a run folder exists, when nothing is spent."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from helpers import small_world
from helpers.whole_runs import check_refused
from userdp.server.mechanisms.user_wise import UserWise


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))


class UnknownRule(UserWise):
    """A mechanism whose clip rule does not exist."""

    clipping = "jiont"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("strategy.name=outside.UnknownRule", "contract.clipping=jiont: choose one of joint."),
        ("runtime.kind=outside.start", "runtime.kind=outside.start: AttributeError"),
        ("runtime.kind=outside.UnknownRule", "runtime.kind=outside.UnknownRule: expected function"),
        ("optimizer.name=outside.Adam", "optimizer.name=outside.Adam"),
    ],
)
def test_a_name_that_leads_nowhere_spends_no_round(monkeypatch, capsys, override, message):
    module = types.ModuleType("outside")
    module.UnknownRule = UnknownRule
    monkeypatch.setitem(sys.modules, "outside", module)
    check_refused(capsys, ["run", *small_world.overrides(override, "output=run")], message)
    assert not Path("run").exists()
