"""The model card holds the statement's own figures and loads the adapter as it was trained."""

from __future__ import annotations

import ast
import json
import re

import pytest

from helpers.statements import HEADER, RECORDS, built
from userdp.server.statement import model_card, prose


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


def test_the_card_of_a_record_level_claim_does_not_call_it_user_level():
    text = model_card.text(built(RECORDS), base_model="some/base")
    assert "- record-level-dp" in text
    assert "user-level" not in text


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
