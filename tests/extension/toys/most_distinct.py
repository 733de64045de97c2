"""Selects the records of a user that teach the most different tokens."""

import numpy as np

from userdp.sim.data import masking
from userdp.sim.data.selection import Records, SelectionRule


def most_distinct(
    records: Records, k: int, max_tokens: int, _: np.random.Generator
) -> list[np.ndarray]:
    """The k records, after the cut, with the most distinct learned tokens; all for ``k = 0``."""
    cut = [record[:max_tokens] for record in records.tokens]
    usable = [record for record in cut if masking.predicted(record)]
    ranked = sorted(usable, key=_distinct, reverse=True)  # stable: ties go to the earlier record
    return ranked[:k] if k else ranked


def _distinct(record: np.ndarray) -> int:
    return len(np.unique(record[1:][masking.learned(record)]))


RULE = SelectionRule(select=most_distinct)
