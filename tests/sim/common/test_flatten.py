"""Nested mappings become one mapping by dotted names, and no value is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from userdp.sim.common.flatten import flatten

NAMES = st.text("abc", min_size=1, max_size=2)
VALUES = st.none() | st.integers() | st.lists(st.integers(), max_size=2)
NESTED = st.recursive(VALUES, lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3))


@given(st.dictionaries(NAMES, NESTED, max_size=3))
def test_every_value_is_found_by_following_its_dotted_name(nested):
    flat = flatten(nested)
    for name, value in flat.items():
        assert not isinstance(value, dict)
        level = nested
        for part in name.split("."):
            level = level[part]
        assert level is value
    assert len(flat) == count(nested)


def count(value) -> int:
    return sum(map(count, value.values())) if isinstance(value, dict) else 1


def test_a_prefix_stands_before_every_name():
    assert flatten({"a": 1, "b": {"c": 2}}, "of.") == {"of.a": 1, "of.b.c": 2}


def test_an_empty_mapping_leaves_no_name():
    assert flatten({"a": {}, "b": 1}) == {"b": 1}
