"""What a node is asked for in a round, in plain values: how to treat a unit, and which units.

Knows nothing of the messages that carry it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What every unit of a round must do: public, made by the strategy, obeyed by the nodes.

    A client has no privacy settings of its own that could drift from the ledger.
    """

    round: int
    unit: str  # "user" or "record_slot"
    clip_norm: float  # C, inf only in a run that is not private
    records_per_user: int  # k
    selection: str
    redraw: bool  # select anew each round; otherwise once and for all
    resample: bool  # fill a user's slots up to k (record slots only)
    max_tokens: int  # tokens of a sequence, at most
    local_steps: int
    local_lr: float
    seed: int  # of the public selection stream
    count_unclipped: bool = False  # whether the clip norm adapts to the share of unclipped units
    keep_rows: bool = False  # answer with every unit's clipped update too: no secure aggregation


@dataclass(frozen=True)
class Assignment:
    """Which units a node is asked for: private to the trusted side, in no log."""

    users: np.ndarray  # (units,) int64 population slots of the owners, ascending
    slots: np.ndarray  # (units,) int64 record slots 0..k-1, or empty when the unit is the user
