"""The statement says what the ledger and the accountant said, all of it, and nothing more."""

import ast
import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userdp.server.statement import claim as claims
from userdp.server.statement import model_card, prose, schema, statement

EVENT = {"sampling_rate": 0.01, "noise_multiplier": 1.05, "group_size": 1}
HEADER = {
    "strategy": "user_wise",
    "unit": "user",
    "clipped_unit": "user",
    "adjacency": "add-or-remove-one-user",
    "declared_users": 2484,
    "users_counted": False,
    "delta": 1e-5,
    "event": EVENT,
    "clip_norm": 0.5,
    "adaptive_clip": None,
    "denominator": 24.84,
    "sampling_scheme": "poisson",
    "cohort_cap": None,
    "records_per_user": 2,
    "resample": False,
    "rescaled": False,
    "records_bounded": False,
    "chunks_cross_records": False,
    "local_steps": 1,
    "selection": "random",
    "group_bound": None,
    "seeds_policy": "secret",
    "drop_failed_nodes": False,
    "rounds_per_event": 1,
    "mechanism_details": {},
}
GROUP = {
    **HEADER,
    "strategy": "group_privacy",
    "clipped_unit": "record_slot",
    "group_bound": "mixture",
    "records_bounded": True,
}


def claim(**changes):
    figures = {
        "epsilon": 2.12453712345,
        "epsilon_lower": 2.11002345678,
        "accountant": "pld",
        "accountant_version": "dp-accounting 0.6.0",
        "certified": True,
        "epsilon_at_deltas": {1e-6: 2.9, 1e-5: 2.12453712345},
    }
    return claims.Claim(**{**figures, **changes})


def built(header=HEADER, rounds=30, figures=None, **options):
    spent = [(header["event"], rounds)]
    options = {"ledger_hash": "1ed6e4", "codes": ["c0de"], **options}
    return statement.build(header, spent, figures or claim(), **options)


def test_a_run_resumed_with_other_code_names_both():
    assert built(codes=["c0de", "d0de"])["code_hash"] == "c0de, then d0de"


NON_PRIVATE = {
    **HEADER,
    "strategy": "non_private",
    "event": {**EVENT, "noise_multiplier": 0.0},
    "clip_norm": None,
    "delta": None,
}
NOTHING = {"epsilon": math.inf, "epsilon_lower": math.inf, "epsilon_at_deltas": {}}


def test_a_statement_survives_json_and_holds_every_field():
    said = built()
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert list(said) == list(statement.schema.FIELDS)
    assert said["private"]
    assert said["reasons"] == []


def test_rounds_are_those_of_the_ledger():
    assert built(rounds=31)["rounds"] == 31
    with pytest.raises(ValueError, match="other events"):
        statement.build(
            HEADER,
            [(EVENT, 30), ({**EVENT, "sampling_rate": 0.02}, 1)],
            claim(),
            ledger_hash="1ed6e4",
            codes=["c0de"],
        )


@pytest.mark.parametrize("name", schema.FIELDS)
def test_a_statement_without_a_field_is_refused_by_name(name):
    said = built()
    del said[name]
    with pytest.raises(ValueError, match=f"'{name}'"):
        schema.validate(said)


@pytest.mark.parametrize("name", statement.HEADER_FIELDS)
def test_a_header_without_a_field_is_refused_by_name(name):
    header = {key: value for key, value in HEADER.items() if key != name}
    with pytest.raises(ValueError, match=name):
        statement.build(header, [(EVENT, 1)], claim(), ledger_hash="1ed6e4", codes=["c0de"])


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


def test_an_estimate_is_no_claim():
    with pytest.raises(ValueError, match="edgeworth"):
        claim(accountant="edgeworth", certified=False)
    with pytest.raises(ValueError, match="epsilon_lower"):
        claim(epsilon=1.0, epsilon_lower=1.1, accountant="pld")


@given(st.floats(1e-12, 1e6))
def test_rounded_figures_stay_on_their_side_and_near(value):
    up, down = prose.round_up(value), prose.round_down(value)
    assert down <= value <= up
    assert up <= value * (1 + 1.01e-5)
    assert down >= value * (1 - 1.01e-5)
    assert (prose.round_up(up), prose.round_down(down)) == (up, down)


def test_figures_are_the_accountants_rounded_outwards():
    said = built()
    assert (said["epsilon_lower"], said["epsilon"]) == (2.11002, 2.12454)
    assert said["epsilon_at_deltas"] == {"1e-06": 2.9, "1e-05": 2.12454}


def test_prose_leads_with_the_claim_and_names_limits():
    said = built(simulation_only=True)
    text = prose.text(said)
    first = text.splitlines()[0]
    assert "(epsilon = 2.12454, delta = 1e-05)" in first
    assert "adding or removing one user" in first
    for part in (*schema.NOT_COVERED, schema.SIMULATION_ONLY, schema.TRUST_MODEL, "Mironov"):
        assert part in text
    assert "simulation is not a deployment" in text
    assert schema.SIMULATION_ONLY not in prose.text(built())


def test_conditions_of_the_run_become_assumptions():
    plain = built()["assumptions"]
    counted = built({**HEADER, "users_counted": True})["assumptions"]
    dropping = built({**HEADER, "drop_failed_nodes": True})["assumptions"]
    assert any("2484, was counted" in text for text in set(counted) - set(plain))
    assert any("drop_failed_nodes" in text for text in set(dropping) - set(plain))


@pytest.mark.parametrize(
    ("header", "figures", "reason"),
    [
        (NON_PRIVATE, claim(**NOTHING), "non_private"),
        ({**HEADER, "seeds_policy": "reproducible"}, claim(), "reproducible"),
        ({**HEADER, "simulated_cohort": 5000.0}, claim(), "5000.0, but 24.84"),
    ],
)
def test_what_is_not_private_says_so_in_its_first_line(header, figures, reason):
    said = built(header, figures=figures)
    assert not said["private"]
    first = prose.text(said).splitlines()[0]
    assert first.startswith("NOT PRIVATE: ")
    assert reason in first
    assert "-differentially private" not in prose.text(said)
    card = model_card.text(said, base_model="gpt2")
    heading = next(line for line in card.splitlines() if line.startswith("#"))
    assert heading.startswith("# NOT PRIVATE")
    assert "differential-privacy" not in card.split("---")[1]
    with pytest.raises(ValueError, match="private"):
        schema.validate({**said, "private": True})


def test_a_real_cohort_is_no_simulated_one():
    assert built({**HEADER, "simulated_cohort": 24.84})["private"]


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


def test_card_has_the_metadata_and_the_statements_own_figures():
    yaml = pytest.importorskip("yaml")
    said = built({**HEADER, "delta": 1 / 24840})
    card = model_card.text(
        said, base_model="me/base: odd", base_revision="abc", scores={"heldout_perplexity": 121.5}
    )
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["base_model"] == "me/base: odd"
    assert front["library_name"] == "peft"
    assert {"differential-privacy", "user-level-dp", "lora"} <= set(front["tags"])
    cells = dict(re.findall(r"^\| (.+?) \| (.*) \|$", card, flags=re.MULTILINE))
    numbers = {name: value for name, value in said.items() if isinstance(value, int | float)}
    assert {name: json.loads(cells[name]) for name in numbers} == numbers
    assert json.loads(cells["heldout_perplexity"]) == 121.5
    assert cells["base_revision"] == "abc"
    assert prose.text(said).strip() in card
    code = re.search(r"```python\n(.*?)```", card, flags=re.DOTALL)
    calls = [node for node in ast.walk(ast.parse(code[1])) if isinstance(node, ast.Call)]
    assert 'from_pretrained("me/base: odd", revision="abc")' in code[1]
    assert len(calls) == 2


def test_code_hash_follows_every_python_file_and_nothing_else(tmp_path, monkeypatch):
    package = tmp_path / "somepackage"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner" / "a.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)

    def now():
        return statement.code_hash(["somepackage"])

    first = now()
    (package / "notes.txt").write_text("not code")
    assert now() == first
    (package / "inner" / "a.py").write_text("x = 2\n")
    second = now()
    (package / "inner" / "a.py").rename(package / "inner" / "b.py")
    third = now()
    assert len({first, second, third}) == 3
    with pytest.raises(ValueError, match="nowhere"):
        statement.code_hash(["nowhere"])


RECORDS = {**HEADER, "unit": "record", "records_per_user": 1}


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


def test_the_card_of_a_record_level_claim_does_not_call_it_user_level():
    text = model_card.text(built(RECORDS), base_model="some/base")
    assert "- record-level-dp" in text
    assert "user-level" not in text


def test_the_unit_is_a_user_or_a_record():
    with pytest.raises(ValueError, match="unit='household'"):
        built({**HEADER, "unit": "household"})


def test_the_card_of_a_classifier_loads_it_as_one_and_names_the_classes_in_order():
    text = model_card.text(built(), base_model="some/base", classes=["no", "may be", "yes"])
    assert "pipeline_tag: text-classification" in text
    assert 'AutoModelForSequenceClassification.from_pretrained("some/base", num_labels=3)' in text
    assert '{"0": "no", "1": "may be", "2": "yes"}' in text
    assert "CausalLM" not in text
    plain = model_card.text(built(), base_model="some/base")
    assert 'AutoModelForCausalLM.from_pretrained("some/base")' in plain
    assert "pipeline_tag: text-generation" in plain
    assert "Classification" not in plain
