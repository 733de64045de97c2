"""Metadata at the head of a model card, in the classes of `huggingface_hub`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml


@dataclass(frozen=True, kw_only=True)
class About:
    """What the metadata say beside the statement and the base model; all of it public."""

    license: str | None = None
    language: Sequence[str] = ()
    datasets: Sequence[str] = ()  # names on the hub
    data: str = "unnamed"  # what the results were measured on: a data set of the hub, or a format
    results: Mapping[str, float] = field(default_factory=dict)  # held out, at the end, by metric


NOTHING_MORE = About()


def front_matter(
    statement: Mapping[str, Any], base_model: str, title: str, about: About, *, classes: bool
) -> str:
    """The YAML block, with its two lines of dashes.

    Args:
        statement: a validated privacy statement.
        base_model: public name of the base model.
        title: of the card; the name of the model in its index of results.
        classes: whether the model classifies texts.
    """
    from huggingface_hub import ModelCardData  # slow to import

    task = "text-classification" if classes else "text-generation"
    data = ModelCardData(
        base_model=base_model,
        library_name="peft",
        pipeline_tag=task,
        tags=_tags(statement),
        license=about.license,
        language=list(about.language) or None,
        datasets=list(about.datasets) or None,
        model_name=title if about.results else None,
        eval_results=_results(about, task) if about.results else None,
    )
    values: dict[str, Any] = data.to_dict()  # type: ignore[no-untyped-call]
    return f"---\n{_yaml(values)}---"


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes a text with line breaks in one line: none of it can pass for the YAML's end."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _yaml(values: Mapping[str, Any]) -> str:
    options: dict[str, Any] = {"allow_unicode": True, "sort_keys": False, "width": math.inf}
    text: str = yaml.dump_all([dict(values)], Dumper=_Dumper, **options)
    return text


def _tags(statement: Mapping[str, Any]) -> list[str]:
    level = f"{statement['unit']}-level-dp"
    privacy = ["differential-privacy", level] if statement["private"] else ["not-private"]
    return [*privacy, "lora", "federated-learning"]


def _results(about: About, task: str) -> list[Any]:
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type=task,
            dataset_type=about.data,
            dataset_name=f"{about.data}, held out",
            metric_type=name,
            metric_value=value,
        )
        for name, value in about.results.items()
    ]
