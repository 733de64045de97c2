"""The line about a wrong value: the name of its field, the value, and what it should be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import pydantic

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.common.plain_text import shown

Kind = TypeVar("Kind")
_MODEL_ERRORS = ("dataclass_type", "model_type", "dict_type")  # something else in place of a group


def checked(kind: type[Kind], values: Mapping[str, Any], prefix: str = "") -> Kind:
    """An object of a class with typed fields, from plain values.

    Args:
        prefix: written before the names of fields in messages.

    Raises:
        ConfigurationError: one line about the first wrong field.
    """
    try:
        return pydantic.TypeAdapter(kind).validate_python(values)
    except pydantic.ValidationError as error:
        ours = error.errors()[0].get("ctx", {}).get("error")
        refusal = type(ours) if isinstance(ours, ConfigurationError) else ConfigurationError
        raise refusal(line(error, values, prefix)) from None


def line(error: pydantic.ValidationError, values: Any, prefix: str = "") -> str:
    """The first problem of an error: that of our own check, else the field and what it takes.

    Args:
        values: what was validated.
        prefix: written before the names of fields, or instead of one where ``values`` is a value.
    """
    ours = error.errors()[0].get("ctx", {}).get("error")
    if isinstance(ours, ConfigurationError):
        return str(ours)
    first = error.errors()[0]
    name, value = _located(first["loc"], values, prefix)
    if first["type"] == "unexpected_keyword_argument":
        while isinstance(value, Mapping) and len(value) == 1:  # as the override spelled it
            [(inner, value)] = value.items()
            name = f"{name}.{inner}"
        return f"{name}={shown(value)}: no such key; leave it out."
    if first["type"] == "missing" and not isinstance(values, Mapping):
        return f"{name}={shown(value)}: should have more values."
    if first["type"] == "missing":
        return f"{name} is missing: give it a value, {name}=..."
    if first["type"] in _MODEL_ERRORS:
        return f"{name}={shown(value)}: should be a group of keys; set its keys one by one."
    wanted = [
        problem["msg"]
        for problem in error.errors()
        if _located(problem["loc"], values, prefix)[0] == name
    ]
    expected = ", or ".join(text.removeprefix("Input should be ") for text in dict.fromkeys(wanted))
    return f"{name}={shown(value)}: should be {expected}."


def _located(place: tuple[int | str, ...], values: Any, prefix: str) -> tuple[str, Any]:
    """The dotted name and the value of a field; pydantic's names of union members are dropped."""
    names: list[str] = []
    for part in place:
        if isinstance(values, Mapping) and part in values:
            names.append(str(part))
            values = values[part]
        elif isinstance(values, Mapping):  # a missing key
            return prefix + ".".join([*names, str(part)]), None
    return prefix + ".".join(names), values
