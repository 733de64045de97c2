"""A node's instructions for a round, in plain values: how to treat a unit, and which units.

A contract has two authors. The configuration gives the `LocalWork`; the mechanism adds everything
that its guarantee rests on (`userdp.server.mechanisms.base.Mechanism.contract`). Contracts are
written into messages by `userdp.sim.protocol.messages`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class LocalWork:
    """What a unit computes before the clip; from the configuration, the same in every round."""

    selection: str  # name of a rule of `userdp.sim.data.selection.RULES`
    redraw: bool  # users select anew in each round; record slots are always filled once
    resample: bool  # fill a user's record slots up to k by repeating records
    max_tokens: int  # longest sequence, in tokens
    local_steps: int  # steps of gradient descent from the global adapter
    local_lr: float  # their learning rate
    seed: int  # of the public selection stream


@dataclass(frozen=True, kw_only=True)
class Contract(LocalWork):
    """The instructions for every unit of a round: public, written by the server for the nodes.

    A client has no privacy settings, so none can differ from those in the ledger.
    """

    round: int
    unit: str  # what one clip bounds: "user" or "record_slot"
    clip_norm: float  # C, infinite only in a run that is not private
    records_per_user: int  # k; 0 takes all
    clipping: str = "joint"  # of `userdp.clients.training.clipping.CLIP_RULES`, or a dotted name
    count_unclipped: bool = False  # report how many units are unclipped: the clip norm adapts
    keep_rows: bool = False  # report every unit's clipped update: no secure aggregation
    # Only members of one public group take part (`userdp.sim.data.public_groups`); 0: no groups.
    groups: int = 0
    group: int = 0  # the round's group, 0 to groups - 1
    grid: float = 0.0  # a power of two: round clipped updates towards zero to its multiples
    # The run under whose name nodes mask their sums (`userdp.sim.protocol.secure_sum`), or empty.
    secure_sum: str = ""


@dataclass(frozen=True)
class Assignment:
    """The units that a node trains: private to the trusted side, never logged."""

    users: np.ndarray  # (units,) int64 population slots of the owners, ascending
    slots: np.ndarray  # (units,) int64 record slots 0..k-1, or empty when the unit is the user
