"""Bounds of numbers and kinds of texts, as metadata of a field's type.

A field of settings, of a mechanism or of a command's options says in its type what it takes:
``Annotated[int, Between(1, 100)]``, ``Annotated[str, Kind("path")]``. `pydantic` checks both where
the class is validated; a test walks all classes for fields that say nothing.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

LARGEST = 1e12  # beyond it, float64 loses the units of what is counted or measured here
_KINDS = ("path", "name", "column", "code", "choice", "text")
_BREAKS = "\t\n\r"  # may stand in a text, and in the name of a column, as a spreadsheet spells it


@dataclass(frozen=True)
class Between:
    """A closed range of finite numbers; ``above`` and ``below`` leave out its ends.

    Args:
        low, high: its ends.
        above, below: whether the low and the high end are left out.
    """

    low: float
    high: float
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Whether the number is in the range; not a number is in no range."""
        least = self.low < value if self.above else self.low <= value
        return least and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        low = f"above {_short(self.low)}" if self.above else f"at least {_short(self.low)}"
        return f"{low} and {'below' if self.below else 'at most'} {_short(self.high)}"

    def __get_pydantic_core_schema__(self, kind: Any, handler: Any) -> CoreSchema:
        from pydantic_core import PydanticCustomError, core_schema

        def check(value: Any) -> Any:
            if not self.holds(value):
                raise PydanticCustomError("bounds", f"Input should be {self}")
            return value

        return core_schema.no_info_after_validator_function(check, handler(kind))


@dataclass(frozen=True)
class Kind:
    """What a text is: a path, a name, a column, a dotted name of code, a choice, or a plain text.

    None of them holds control characters, which could pass for other text on a terminal, or lone
    surrogates, which no file of a run can hold. Only a text that a model reads may be empty.

    Args:
        kind: of `_KINDS`.
    """

    kind: str

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"Expected one of {', '.join(_KINDS)}, got {self.kind!r}.")

    def fault(self, text: str) -> str | None:
        """What is wrong with a text, to follow "should be"; None where nothing is."""
        if not text.strip() and self.kind != "text":
            return f"a {self.kind}, not empty"
        allowed = _BREAKS if self.kind in ("column", "text") else ""
        if any(unicodedata.category(sign) == "Cc" and sign not in allowed for sign in text):
            return f"a {self.kind} without control characters"
        if any(unicodedata.category(sign) == "Cs" for sign in text):
            return f"a {self.kind} in valid Unicode"
        return None

    def __get_pydantic_core_schema__(self, kind: Any, handler: Any) -> CoreSchema:
        from pydantic_core import PydanticCustomError, core_schema

        def check(value: Any) -> Any:
            if (fault := self.fault(value)) is not None:
                raise PydanticCustomError("kind", f"Input should be {fault}")
            return value

        return core_schema.no_info_after_validator_function(check, handler(kind))


def _short(value: float) -> str:
    """A bound as people write it: 1,000,000 and not 1e+06, but 1e+12."""
    return f"{value:,.0f}" if 1000 <= value < 10**9 and value == int(value) else f"{value:g}"
