"""The README of an adapter's folder, a Hugging Face model card led by the privacy claim."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from server import wording

_LOAD = """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({base})
model = PeftModel.from_pretrained(base, "path/of/this/folder")
```"""


def model_card(
    statement: Mapping[str, Any],
    *,
    base_model: str,
    base_revision: str | None = None,
    scores: Mapping[str, float] | None = None,
) -> str:
    """The card's text. Write it after ``save_pretrained``, which replaces tags and base model.

    Args:
        statement: a validated privacy statement.
        base_model: name of the base model as others know it; becomes public.
        base_revision: the revision that the adapter was trained on.
        scores: public scores by name, for example held-out perplexity before and after.
    """
    title = f"LoRA adapter for {base_model}"
    if not statement["private"]:
        title = f"NOT PRIVATE: {title}"
    arguments = [base_model] if base_revision is None else [base_model, base_revision]
    sections = [
        _front_matter(statement, base_model),
        f"# {title}",
        wording.prose(statement).rstrip(),
        "## Parameters",
        _table(_parameters(statement) | {"base_model": base_model, "base_revision": base_revision}),
        *(["## Scores", _table(scores)] if scores else []),
        "## Use",
        _LOAD.format(base=", revision=".join(json.dumps(argument) for argument in arguments)),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(statement: Mapping[str, Any], base_model: str) -> str:
    privacy = ["differential-privacy", "user-level-dp"] if statement["private"] else ["not-private"]
    tags = [*privacy, "lora", "federated-learning"]
    quoted = json.dumps(base_model)  # a JSON string is a YAML string
    lines = ["---", f"base_model: {quoted}", "library_name: peft", "pipeline_tag: text-generation"]
    return "\n".join([*lines, "tags:", *(f"- {tag}" for tag in tags), "---"])


def _parameters(statement: Mapping[str, Any]) -> dict[str, Any]:
    """The statement's figures and words, exactly; the texts stand in the prose."""
    sampling = {f"sampling {name}": value for name, value in statement["sampling"].items()}
    plain = (str, int, float, type(None))
    return {
        name: value
        for name, value in statement.items()
        if isinstance(value, plain) and name != "trust_model"
    } | sampling


def _table(rows: Mapping[str, Any]) -> str:
    lines = [f"| {name} | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
