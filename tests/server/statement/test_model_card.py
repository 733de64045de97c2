"""The model card holds the statement's own figures and loads the adapter as it was trained."""

from __future__ import annotations

import ast
import hashlib
import json
import re

import huggingface_hub
import pytest

from helpers.statements import HEADER, NON_PRIVATE, NOTHING, RECORDS, built, claim
from userdp.server.statement import data_set_card, model_card, prose
from userdp.server.statement.card_metadata import About


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
    called = [ast.unparse(call.func) for call in calls]
    assert [name for name in called if name.endswith("from_pretrained")] == [
        *("AutoModelForCausalLM.from_pretrained", "PeftModel.from_pretrained"),
        "AutoTokenizer.from_pretrained",
    ]
    assert "model.generate" in called


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


def front(card: str) -> dict:
    return pytest.importorskip("yaml").safe_load(card.split("---\n")[1])


def test_metadata_are_what_was_declared_and_measured_as_the_hub_reads_them(tmp_path):
    about = About(
        license="apache-2.0",
        language=["en", "de"],
        datasets=["owner/mail"],
        data="owner/mail",
        results={"perplexity": 12.5, "loss": 2.5257},
    )
    card = model_card.text(built(), base_model="some/base", about=about)
    (tmp_path / "README.md").write_text(card)
    data = huggingface_hub.ModelCard.load(tmp_path / "README.md").data
    assert (data.license, data.language, data.datasets) == (
        "apache-2.0",
        ["en", "de"],
        ["owner/mail"],
    )
    assert data.base_model == "some/base"
    found = {one.metric_type: (one.metric_value, one.dataset_type) for one in data.eval_results}
    assert found == {"perplexity": (12.5, "owner/mail"), "loss": (2.5257, "owner/mail")}
    bare = front(model_card.text(built(), base_model="some/base"))
    assert not {"license", "language", "datasets", "model-index"} & set(bare)


@pytest.mark.parametrize(
    "name", ["a: b\n---\nlicense: mit", "x\n---\n# (epsilon = 0.1, delta", "'\"{"]
)
def test_a_hostile_name_stays_a_value_of_the_metadata(name):
    about = About(data=name, results={"loss": 1.0})
    card = model_card.text(built(), base_model=name, about=about)
    head, body = card[4:].split("\n---\n", 1)
    metadata = pytest.importorskip("yaml").safe_load(head)
    assert metadata["base_model"] == name
    assert "license" not in metadata
    assert body.lstrip().startswith("# LoRA adapter for")


def test_a_base_in_the_folder_is_loaded_from_it_and_a_chat_model_by_its_template():
    text = model_card.text(built(), base_model="userdp/embedded", base_here=True, chat=True)
    assert 'from_pretrained(folder + "/base")' in text
    assert "apply_chat_template" in text
    assert "apply_chat_template" not in model_card.text(built(), base_model="some/base")


@pytest.mark.parametrize("header", [HEADER, NON_PRIVATE])
def test_the_claim_of_a_data_set_is_the_adapters_with_another_subject(header):
    said = built(header, figures=claim(**NOTHING) if header is NON_PRIVATE else None)
    made = data_set_card.Made(
        texts=2,
        content=b"{}\n",
        prompts=["", "a|b"],
        chat=False,
        sampling={"seed": 7},
        base_model="some/base",
        base_revision=None,
    )
    text = data_set_card.text(said, made)
    adapters = prose.claim(said)
    assert adapters.replace("This adapter", data_set_card.SUBJECT) in text
    assert text.startswith("# NOT PRIVATE") != said["private"]
    for item in (*said["assumptions"], *said["not_covered"]):
        assert f"- {item}" in text
    assert "the prompts: whoever named them declared them public" in text
    assert hashlib.sha256(b"{}\n").hexdigest() in text
    cells = dict(re.findall(r"^\| (.+?) \| (.*) \|$", text, flags=re.MULTILINE))
    assert json.loads(cells["epsilon"]) == said["epsilon"]
    assert json.loads(cells["seed"]) == 7


def test_the_card_of_a_simulation_says_so_before_its_claim():
    made = data_set_card.Made(
        texts=0,
        content=b"",
        prompts=[],
        chat=False,
        sampling={},
        base_model="b",
        base_revision=None,
    )
    text = data_set_card.text(built(simulation_only=True), made)
    assert text.startswith("# SIMULATION ONLY")
    assert text.index("no epsilon covers them") < text.index("(epsilon = ")
    assert "SIMULATION" not in data_set_card.text(built(), made)
