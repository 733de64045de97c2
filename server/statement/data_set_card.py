"""Card of a synthetic data set, which starts with the claim of the adapter that wrote its texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from userdp.server.statement import prose, schema
from userdp.sim.common import plain_text

SUBJECT = "This data set, as post-processing of an adapter and of public values,"
_NOT_COVERED = (
    "the prompts: whoever named them declared them public",
    "choosing prompts, settings or texts by looking at private records",
)
_SHOWN = 20  # prompts that the card lists


@dataclass(frozen=True, kw_only=True)
class Made:
    """How the texts were made; all of it is public."""

    texts: int
    content: bytes  # of the file of records
    prompts: Sequence[str]  # each once
    chat: bool
    sampling: Mapping[str, float]
    base_model: str
    base_revision: str | None


def text(statement: Mapping[str, Any], made: Made) -> str:
    """The card's text, in Markdown; what is not private, or a simulation, says so first.

    Args:
        statement: a validated privacy statement of the run whose adapter wrote the texts.
    """
    title = "Synthetic texts of a privately fine-tuned language model"
    if not statement["private"]:
        title = "NOT PRIVATE: synthetic texts of a fine-tuned language model"
    elif _simulated(statement):
        title = f"SIMULATION ONLY: {title[0].lower()}{title[1:]}"
    sections = [
        f"# {title}",
        *([_SIMULATED] if _simulated(statement) else []),
        prose.claim(statement, SUBJECT),
        _POST_PROCESSING if statement["private"] else _NOTHING,
        f"Trust model of the run: {statement['trust_model']}",
        "## How it was made",
        _table(_rows(statement, made)),
        _listed("Prompts:", _prompts(made.prompts)),
        _listed("The claim assumes that:", statement["assumptions"]),
        _listed("Not covered:", [*statement["not_covered"], *_NOT_COVERED]),
    ]
    return "\n\n".join(sections) + "\n"


_SIMULATED = (
    "SIMULATION ONLY: the run also wrote values without noise that it computed from private data; "
    "no epsilon covers them, or a choice made by them."
)
_POST_PROCESSING = (
    "The texts are a function of the released adapter, of its public base model, of public prompts "
    "and of random numbers. What is computed from a release without looking at private data again "
    "has the guarantee of that release, however many texts there are."
)
_NOTHING = "Texts of this adapter may repeat what users wrote."


def _simulated(statement: Mapping[str, Any]) -> bool:
    return schema.SIMULATION_ONLY in statement["not_covered"]


def _rows(statement: Mapping[str, Any], made: Made) -> dict[str, Any]:
    names = ("epsilon", "delta", "unit", "adjacency", "declared_users", "ledger_hash", "code_hash")
    adapter = {
        f"sha256 of {name}": digest
        for name, digest in statement.get("files", {}).items()
        if name.endswith(".safetensors")
    }
    return {
        "texts": made.texts,
        "sha256": hashlib.sha256(made.content).hexdigest(),
        "base_model": made.base_model,
        "base_revision": made.base_revision,
        "chat template": made.chat,
        **made.sampling,
        **{name: statement[name] for name in names},
        **adapter,
    }


def _table(rows: Mapping[str, Any]) -> str:
    lines = [f"| {plain_text.markdown(name)} | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _cell(value: Any) -> str:
    return plain_text.markdown(value) if isinstance(value, str) else json.dumps(value)


def _prompts(prompts: Sequence[str]) -> list[str]:
    shown = [plain_text.markdown(json.dumps(one, ensure_ascii=False)) for one in prompts[:_SHOWN]]
    more = len(prompts) - _SHOWN
    return [*shown, *([f"and {more} more, in the records"] if more > 0 else [])]


def _listed(title: str, items: Sequence[str]) -> str:
    return "\n".join([title, "", *(f"- {item}" for item in items)])
