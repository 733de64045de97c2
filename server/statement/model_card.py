"""Hugging Face model card of an adapter (its README.md), which starts with the privacy claim."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from userdp.server.statement import card_metadata, prose
from userdp.server.statement.card_metadata import NOTHING_MORE, About
from userdp.sim.common import plain_text

_LOAD = """```python
{imports}from transformers import {kind}, AutoTokenizer

folder = "path/of/this/folder"  # of a repository: huggingface_hub.snapshot_download("its/name")
{setup}base = {kind}.from_pretrained({base})
model = PeftModel.from_pretrained(base, folder)
tokenizer = AutoTokenizer.from_pretrained(folder)

{use}
```"""
_CLASSIFY = """inputs = tokenizer("A text", return_tensors="pt")
print(model(**inputs).logits.argmax(-1))"""
_CHAT = """messages = [{"role": "user", "content": "Hello"}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)"""
_PLAIN = """inputs = tokenizer("Once upon", return_tensors="pt", return_token_type_ids=False)"""
_GENERATE = """
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20)[0]))"""


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
    base_here: bool = False,
    scores: Mapping[str, float] | None = None,
    classes: Sequence[str] = (),
    quantization: Quantization | None = None,
    chat: bool = False,
    about: About = NOTHING_MORE,
) -> str:
    """The card's text. Write it after ``save_pretrained``, which replaces tags and base model.

    Args:
        statement: a validated privacy statement.
        base_model: public name of the base model, for example its name on the hub.
        base_revision: revision of the base model that the adapter was trained on.
        base_here: whether a copy of the base model lies in the adapter's folder, in ``base``.
        scores: public scores by name, for example held-out perplexity before and after.
        classes: names of the classes in the order of the logits; empty for a language model.
        quantization: how the base model was quantised for training, if it was.
        chat: whether conversations were trained on.
        about: licence, language, data and results, for the metadata.
    """
    title = f"LoRA adapter for {_plain(base_model)}"
    if not statement["private"]:
        title = f"NOT PRIVATE: {title}"
    sections = [
        card_metadata.front_matter(statement, base_model, title, about, classes=bool(classes)),
        f"# {title}",
        prose.text(statement).rstrip(),
        "## Parameters",
        _table(_parameters(statement) | _base(base_model, base_revision, quantization)),
        *(["## Scores", _table(scores)] if scores else []),
        "## Use",
        _loading(
            'folder + "/base"' if base_here else json.dumps(base_model),
            base_revision,
            classes,
            quantization,
            _use(chat=chat, classes=bool(classes)),
        ),
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


def _use(*, chat: bool, classes: bool) -> str:
    """Python that calls the loaded model once."""
    return _CLASSIFY if classes else (_CHAT if chat else _PLAIN) + _GENERATE


def _loading(
    arguments: str,
    base_revision: str | None,
    classes: Sequence[str],
    quantization: Quantization | None,
    use: str,
) -> str:
    setup, imports = "", ["from peft import PeftModel"]
    if base_revision is not None:
        arguments += f", revision={json.dumps(base_revision)}"
    if quantization is not None:
        setup = f"quantized = {quantization.config}\n"
        imports += quantization.imports
        arguments += f", dtype={json.dumps(quantization.dtype)}, quantization_config=quantized"
    parts = {"imports": "".join(f"{line}\n" for line in imports), "setup": setup, "use": use}
    if not classes:
        return _LOAD.format(kind="AutoModelForCausalLM", base=arguments, **parts)
    named = json.dumps(dict(enumerate(classes)))
    arguments += f", num_labels={len(classes)}"
    code = _LOAD.format(kind="AutoModelForSequenceClassification", base=arguments, **parts)
    return f"{code}\n\nThe classes, by the numbers of their logits: {plain_text.markdown(named)}."


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
