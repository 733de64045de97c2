"""A few records of the held-out users, who are declared public: what a run checks itself with."""

from __future__ import annotations

import itertools

import numpy as np

from userdp.sim.data import masking
from userdp.sim.data.population import Population


def first(heldout: Population, seq_len: int, count: int) -> list[np.ndarray]:
    """The first records that have a token to predict, in the order of users, cut to ``seq_len``.

    Args:
        heldout: the held-out users.
        count: at most so many.

    Returns:
        Signed tokens (`userdp.sim.data.masking`), each (tokens,) int64.
    """
    records = (
        cut
        for user in range(len(heldout))
        for record in heldout.records(user)
        if masking.predicted(cut := record[:seq_len])
    )
    return list(itertools.islice(records, count))
