"""Types of the fields of settings: strict numbers and text, and classes without extra keys."""

from __future__ import annotations

from typing import Annotated

import pydantic
import pydantic_core

Whole = Annotated[int, pydantic.Strict()]  # neither 2.0 nor true
Text = Annotated[str, pydantic.Strict()]
Number = Annotated[float, pydantic.Strict()]
Count = Annotated[int, pydantic.Strict(), pydantic.Field(ge=1)]
Quantity = Annotated[float, pydantic.Strict(), pydantic.Field(ge=0, allow_inf_nan=False)]


def _not_blank(value: str) -> str:
    """The text of a place; an empty one would name the working folder, as ``Path("")`` does.

    Raises:
        PydanticCustomError: it is blank.
    """
    if not value.strip():
        raise pydantic_core.PydanticCustomError(
            "blank", "a name or a path, not empty (is a variable of the shell unset?)"
        )
    if "\0" in value:
        raise pydantic_core.PydanticCustomError("nul", "a name or a path without the character NUL")
    return value


Place = Annotated[str, pydantic.Strict(), pydantic.AfterValidator(_not_blank)]  # a path, a name


class Closed:
    """Base of settings classes: keys that are no fields are refused."""

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")
