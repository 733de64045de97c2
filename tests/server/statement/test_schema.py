"""The schema of a statement: no field is missing, and none contradicts another."""

from __future__ import annotations

import math

import pytest

from helpers.statements import HEADER, built
from userdp.server.statement import conditions, schema


def test_a_statement_with_a_cap_and_the_other_adjacency_is_refused():
    said = built()
    said["sampling"] = {**said["sampling"], "cap": 3}
    with pytest.raises(ValueError, match="zero-out-one-user"):
        schema.validate(said)
    schema.validate({**said, "adjacency": "zero-out-one-user"})


@pytest.mark.parametrize("name", schema.NAMES)
@pytest.mark.parametrize("text", ["gold (epsilon 0.1)", "a.b (c)", "x\ny", "", "gold."])
def test_free_text_in_the_place_of_a_name_is_refused(name, text):
    with pytest.raises(ValueError, match=name):
        schema.validate({**built(), name: text})
    schema.validate({**built(), name: "my_package.module.Name"})


@pytest.mark.parametrize(
    "texts", [(), (conditions.HELD_OUT_USERS, conditions.HELD_OUT_RECORDS)], ids=["none", "both"]
)
def test_a_statement_says_exactly_one_thing_about_held_out_scores(texts):
    with pytest.raises(ValueError, match="held out"):
        schema.validate({**built(), "not_covered": [*schema.NOT_COVERED, *texts]})


@pytest.mark.parametrize("name", schema.FIELDS)
def test_a_statement_without_a_field_is_refused_by_name(name):
    said = built()
    del said[name]
    with pytest.raises(ValueError, match=f"'{name}'"):
        schema.validate(said)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("delta", 1 / 2484),
        ("delta", 0.0),
        ("epsilon", None),
        ("epsilon", "2"),
        ("noise_multiplier", 0.0),
        ("clip_norm", None),
        ("clip_norm", math.inf),
        ("seeds_policy", "reproducible"),
        ("seeds_policy", "sometimes"),
        ("adjacency", "replace-one-user"),
        ("unit", "record"),
        ("reasons", ["because"]),
        ("not_covered", []),
        ("sampling", {"scheme": "poisson"}),
        ("record_level", True),
        ("rounds", True),
        ("surprise", 1),
    ],
)
def test_a_statement_that_contradicts_itself_is_refused(name, value):
    with pytest.raises(ValueError, match=name):
        schema.validate({**built(), name: value})


@pytest.mark.parametrize("sentence", schema.NOT_COVERED)
def test_what_is_not_covered_cannot_be_left_out(sentence):
    said = built()
    said["not_covered"].remove(sentence)
    with pytest.raises(ValueError, match="not_covered"):
        schema.validate(said)


def test_the_unit_is_a_user_or_a_record():
    with pytest.raises(ValueError, match="unit='household'"):
        built({**HEADER, "unit": "household"})
