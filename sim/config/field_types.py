"""Types of the fields of settings: strict numbers and text, and classes without extra keys."""

from __future__ import annotations

from typing import Annotated

import pydantic

Whole = Annotated[int, pydantic.Strict()]  # neither 2.0 nor true
Text = Annotated[str, pydantic.Strict()]
Number = Annotated[float, pydantic.Strict()]
Count = Annotated[int, pydantic.Strict(), pydantic.Field(ge=1)]
Quantity = Annotated[float, pydantic.Strict(), pydantic.Field(ge=0, allow_inf_nan=False)]


class Closed:
    """Base of settings classes: keys that are no fields are refused."""

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")
