"""Tables of named choices: entries, dotted names, and errors that list the choices."""

from __future__ import annotations

import math
import sys

import pytest

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.common.table import Table


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A module that no table lists; it must not be imported before an entry is asked for."""
    (tmp_path / "outside_shapes.py").write_text("class Square:\n    corners = 4\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "outside_shapes"
    sys.modules.pop("outside_shapes", None)


def test_an_entry_is_what_its_name_stands_for():
    table = Table("figure.shape", {"circle": 3.14, "line": 1.0})
    assert table.find("line") == 1.0
    assert list(table) == ["circle", "line"]
    assert "circle" in table
    assert "cirle" not in table


def test_an_unknown_name_is_refused_with_the_known_ones():
    table = Table("figure.shape", {"circle": 3.14, "line": 1.0})
    with pytest.raises(ConfigurationError, match=r"^figure.shape=cirle: .*circle, line\.$"):
        table.find("cirle")
    with pytest.raises(ConfigurationError, match=r"^figure.shape=cirle: .*circle, line\.$"):
        table.check("cirle")


def test_a_dotted_name_needs_no_entry(outside):
    table = Table("figure.shape", {"line": 1.0})
    assert table.find(f"{outside}.Square").corners == 4


@pytest.mark.parametrize(
    "name", ["no_such_module.Square", "outside_shapes.Circle", "outside_shapes.", ".Square"]
)
def test_a_dotted_name_without_an_object_is_refused(outside, name):
    table = Table("figure.shape", {"line": 1.0})
    with pytest.raises(ConfigurationError, match=f"^figure.shape={name}: "):
        table.find(name)


def test_entries_are_imported_when_they_are_found_and_not_before(outside):
    entries = {"square": f"{outside}.Square", "broken": "no_such_module.Circle", "line": 1.0}
    table = Table("figure.shape", entries)
    table.check("broken")
    assert table.find("line") == 1.0
    assert outside not in sys.modules
    assert table.find("square").corners == 4
    assert outside in sys.modules
    with pytest.raises(ConfigurationError, match=r"^figure.shape=broken: .*no_such_module"):
        table.find("broken")


def test_changing_the_given_entries_does_not_change_the_table():
    entries = {"line": 1.0}
    table = Table("figure.shape", entries)
    entries["circle"] = 3.14
    assert "circle" not in table


def test_an_object_of_another_kind_is_refused_with_the_kinds_that_are_expected():
    table = Table("figure.size", {"one": "math.pi", "name": "os.sep"}, kinds=[int, float])
    assert table.find("one") == math.pi
    with pytest.raises(ConfigurationError, match=r"figure\.size=name: expected int or float, got"):
        table.find("name")
