"""Hugging Face model card of an adapter (its README.md), which starts with the privacy claim."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from userdp.server.statement import prose
from userdp.sim.common import plain_text

_GENERATION = "text-generation"
_LOAD = """```python
{imports}from transformers import {kind}

{setup}base = {kind}.from_pretrained({base})
model = PeftModel.from_pretrained(base, "path/of/this/folder")
```"""


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """How whoever loads the adapter quantises its base model."""

    kind: str
    dtype: str  # precision of what is not quantised, for example "bfloat16"
    imports: Sequence[str]  # lines of Python
    config: str  # the ``quantization_config`` of transformers, as Python


def text(
    statement: Mapping[str, Any],
    *,
    base_model: str,
    base_revision: str | None = None,
    scores: Mapping[str, float] | None = None,
    classes: Sequence[str] = (),
    quantization: Quantization | None = None,
) -> str:
    """The card's text. Write it after ``save_pretrained``, which replaces tags and base model.

    Args:
        statement: a validated privacy statement.
        base_model: public name of the base model, for example its name on the hub.
        base_revision: revision of the base model that the adapter was trained on.
        scores: public scores by name, for example held-out perplexity before and after.
        classes: names of the classes in the order of the logits; empty for a language model.
        quantization: how the base model was quantised for training, if it was.
    """
    title = f"LoRA adapter for {_plain(base_model)}"
    if not statement["private"]:
        title = f"NOT PRIVATE: {title}"
    sections = [
        _front_matter(statement, base_model, "text-classification" if classes else _GENERATION),
        f"# {title}",
        prose.text(statement).rstrip(),
        "## Parameters",
        _table(_parameters(statement) | _base(base_model, base_revision, quantization)),
        *(["## Scores", _table(scores)] if scores else []),
        "## Use",
        _loading(base_model, base_revision, classes, quantization),
    ]
    return "\n\n".join(sections) + "\n"


def _base(
    name: str, revision: str | None, quantization: Quantization | None
) -> dict[str, str | None]:
    held = {} if quantization is None else {"base_quantized": quantization.kind}
    return {"base_model": _plain(name), "base_revision": revision, **held}


def _plain(name: str) -> str:
    """A name without what could pass for more than a name: claims, lines or cells of their own."""
    return re.sub(r"[^\w.@/+-]+", " ", name).strip()


def _loading(
    base_model: str,
    base_revision: str | None,
    classes: Sequence[str],
    quantization: Quantization | None,
) -> str:
    arguments, setup, imports = json.dumps(base_model), "", ["from peft import PeftModel"]
    if base_revision is not None:
        arguments += f", revision={json.dumps(base_revision)}"
    if quantization is not None:
        setup = f"quantized = {quantization.config}\n"
        imports += quantization.imports
        arguments += f", dtype={json.dumps(quantization.dtype)}, quantization_config=quantized"
    parts = {"imports": "".join(f"{line}\n" for line in imports), "setup": setup}
    if not classes:
        return _LOAD.format(kind="AutoModelForCausalLM", base=arguments, **parts)
    named = json.dumps(dict(enumerate(classes)))
    arguments += f", num_labels={len(classes)}"
    code = _LOAD.format(kind="AutoModelForSequenceClassification", base=arguments, **parts)
    return f"{code}\n\nThe classes, by the numbers of their logits: {plain_text.markdown(named)}."


def _front_matter(statement: Mapping[str, Any], base_model: str, task: str) -> str:
    level = f"{statement['unit']}-level-dp"
    privacy = ["differential-privacy", level] if statement["private"] else ["not-private"]
    tags = [*privacy, "lora", "federated-learning"]
    quoted = json.dumps(base_model, ensure_ascii=False)  # a JSON string is a YAML string
    lines = ["---", f"base_model: {quoted}", "library_name: peft", f"pipeline_tag: {task}"]
    return "\n".join([*lines, "tags:", *(f"- {tag}" for tag in tags), "---"])


def _parameters(statement: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with one value each, exactly as in the statement; the text holds the others."""
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
    return plain_text.markdown(value) if isinstance(value, str) else json.dumps(value)


def contradiction(card: str, statement: Mapping[str, Any]) -> str | None:
    """What a card says against a statement, or None; wording is free, figures are not.

    Args:
        card: text of a card, perhaps of an older version.
        statement: which the card should describe.
    """
    if ("NOT PRIVATE" in card) == statement["private"]:
        return f"it does not say that the run has private={statement['private']}"
    parameters = {name: _cell(value) for name, value in _parameters(statement).items()}
    rows = re.findall(r"^\| ([^|]+) \| (.*) \|$", card, re.MULTILINE)
    for name, told in rows:
        if name in parameters and told != parameters[name]:
            return f"it says {name} {told}, the statement {parameters[name]}"
    missing = {"epsilon", "delta", "ledger_hash"} - {name for name, _ in rows}
    if missing:
        return f"its table lacks {min(missing)}"
    if not statement["private"]:
        return None
    for name in ("epsilon", "delta"):
        shown = re.findall(rf"\b{name} = ([^,;)\s]+)", card)
        right = f"{prose.round_up(statement[name]):.{prose.DIGITS}g}"
        if not shown or any(told.rstrip(".") != right for told in shown):
            return f"it says {name} = {', '.join(shown) or 'nothing'}, the statement {right}"
    return None
