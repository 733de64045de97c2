"""Types of the fields of settings: strict numbers within bounds, texts of a kind, closed classes.

Every number has a lower and an upper bound, and is finite; every text is a path, a name, a column,
code or a choice (`userdp.sim.common.bounds`). ``tests/sim/config/test_bounds.py`` walks all fields.
"""

from __future__ import annotations

from typing import Annotated

import pydantic

from userdp.sim.common.bounds import LARGEST, Between, Kind

MOST_ROUNDS = 1_000_000  # more take minutes to account for, and no cohort of users years to train
MOST_USERS = 10**12  # more than people, and accounted for exactly in float64
_STRICT = pydantic.Strict()

Whole = Annotated[int, _STRICT]  # neither 2.0 nor true; give it bounds
Real = Annotated[float, _STRICT]  # not true; give it bounds
Flag = Annotated[bool, _STRICT]

Count = Annotated[int, _STRICT, Between(1, 10**9)]
Rounds = Annotated[int, _STRICT, Between(1, MOST_ROUNDS)]
Users = Annotated[int, _STRICT, Between(1, MOST_USERS)]
Seed = Annotated[int, _STRICT, Between(-(2**63), 2**63 - 1)]
Quantity = Annotated[float, _STRICT, Between(0, LARGEST)]
Positive = Annotated[float, _STRICT, Between(0, LARGEST, above=True)]
Share = Annotated[float, _STRICT, Between(0, 1, above=True, below=True)]
Decay = Annotated[float, _STRICT, Between(0, 1, below=True)]

PathText = Annotated[str, _STRICT, Kind("path")]
Name = Annotated[str, _STRICT, Kind("name")]
Column = Annotated[str, _STRICT, Kind("column")]
Code = Annotated[str, _STRICT, Kind("code")]  # name in a table, or a dotted name
Text = Annotated[str, _STRICT, Kind("text")]  # what a model reads; may be empty
Choice = Annotated[str, _STRICT, Kind("choice")]  # checked against its table


class Closed:
    """Base of settings classes: keys that are no fields are refused."""

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")
