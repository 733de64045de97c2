"""A selection rule outside userdp: the last k records of a user."""

from __future__ import annotations

import numpy as np

from userdp.sim.data import masking
from userdp.sim.data.selection import Records, SelectionRule


def last(records: Records, k: int, max_tokens: int, _: np.random.Generator) -> list[np.ndarray]:
    usable = [record[:max_tokens] for record in reversed(records.tokens)]
    usable = [sequence for sequence in usable if masking.predicted(sequence)]
    return usable[:k] if k else usable


LAST = SelectionRule(select=last)
