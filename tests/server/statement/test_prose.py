"""English text of a statement: the claim first, every limit named, figures rounded outwards."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.statements import GROUP, RECORDS, built, claim
from userdp.server.statement import prose, schema, trust


@given(st.floats(1e-12, 1e6))
def test_rounded_figures_stay_on_their_side_and_near(value):
    up, down = prose.round_up(value), prose.round_down(value)
    assert down <= value <= up
    assert up <= value * (1 + 1.01e-5)
    assert down >= value * (1 - 1.01e-5)
    assert (prose.round_up(up), prose.round_down(down)) == (up, down)


def test_prose_leads_with_the_claim_and_names_limits():
    said = built(simulation_only=True)
    text = prose.text(said)
    first = text.splitlines()[0]
    assert "(epsilon = 2.12454, delta = 1e-05)" in first
    assert "adding or removing one user" in first
    for part in (*schema.NOT_COVERED, schema.SIMULATION_ONLY, trust.WITHOUT_MASKS, "Mironov"):
        assert part in text
    assert "simulation is not a deployment" in text
    assert schema.SIMULATION_ONLY not in prose.text(built())


@pytest.mark.parametrize(
    ("changes", "record_level"),
    [
        ({}, True),
        ({"records_bounded": False}, False),
        ({"resample": True}, False),
        ({"chunks_cross_records": True}, False),
        ({"clipped_unit": "user"}, False),
    ],
)
def test_slot_level_is_record_level_only_under_its_three_conditions(changes, record_level):
    said = built({**GROUP, **changes}, figures=claim(slot_epsilon=0.5))
    assert said["record_level"] is record_level
    text = prose.text(said)
    assert ("At record level epsilon is 0.5" in text) is record_level
    assert ("not record level" in text) is not record_level


def test_epsilon_is_placed_in_its_tier():
    texts = {}
    for epsilon in (1.0, 1.01, 10.0, 10.01):
        figures = claim(epsilon=epsilon, epsilon_lower=epsilon)
        texts[epsilon] = prose.text(built(figures=figures)).splitlines()[0]
    assert "strong" in texts[1.0]
    assert "reasonable" in texts[1.01]
    assert "reasonable" in texts[10.0]
    assert "weak" in texts[10.01]


def test_where_every_record_is_a_user_the_claim_is_at_record_level_and_says_so():
    said = built(RECORDS)
    assert said["unit"] == "record"
    assert said["not_covered"][-1] == schema.RECORDS
    assert schema.RECORDS not in built()["not_covered"]
    claimed, unit, *_ = prose.text(said).split("\n\n")
    assert "differentially private at record level" in claimed
    assert "every record is a user of its own" in claimed
    assert "one record, filed as a user of its own, out of 2484 declared users" in unit
    assert "user level" not in prose.text(said)
    assert "user level" in prose.text(built())
