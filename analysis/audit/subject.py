"""What is audited: a mechanism, the part of the engine that clips, and the claim for both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from userdp.clients.training import clipping
from userdp.clients.training.clipping import ClipRule
from userdp.server import accounting
from userdp.server.accounting import RoundEvent
from userdp.server.mechanisms.base import Mechanism
from userdp.sim.common import rng
from userdp.sim.data import public_groups
from userdp.sim.protocol.cohort_sum import CohortSum
from userdp.sim.protocol.contract import Assignment, Contract, LocalWork
from userdp.sim.protocol.layout import Layout

OVERSHOOT = 10.0  # norm of a canary's update before the clip, over C
_TENSORS = 4  # of an adapter of vectors
WORK = LocalWork(  # vectors are given, so none of it is used
    selection="random",
    redraw=False,
    resample=False,
    max_tokens=2,
    local_steps=1,
    local_lr=1.0,
    seed=0,
)
_LEAST_TRIALS = 400  # however large cohorts are
_MOST_UNITS = 8e6  # trials times expected units, so that large cohorts take minutes


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A mechanism and what is claimed of it.

    The claim is never computed from what the mechanism does: `honest` takes it from the declared
    mechanism, and a broken twin of it is held to the same claim.
    """

    name: str
    mechanism: Mechanism
    event: RoundEvent  # declared
    rounds: int  # T
    delta: float
    epsilon: float  # claimed, upper value for all rounds
    options: Mapping[str, str]  # accountant and group_bound of the claim
    clip: ClipRule | None = None  # of a patched engine; None: the contract's rule

    @property
    def period(self) -> int:
        """Rounds of one event, as far as the run has them."""
        return min(self.rounds, self.mechanism.rounds_per_event)

    def claim(self, rounds: int) -> float:
        """The claimed epsilon of this many of the rounds."""
        if rounds >= self.rounds:
            return self.epsilon
        events = self.mechanism.event_count(rounds)
        return accounting.epsilon(
            [(self.event, events)],
            self.delta,
            accountant=self.options["accountant"],
            group_bound=self.options["group_bound"],
        ).upper

    def affordable(self, trials: int) -> int:
        """The number of trials, fewer where cohorts are large."""
        units = self.mechanism.expected_units * self.period
        return min(trials, max(_LEAST_TRIALS, round(_MOST_UNITS / units)))

    def contract(self, mechanism: Mechanism, number: int) -> Contract:
        """The instructions of round ``number``, as every node gets them."""
        return mechanism.contract(number, WORK)

    def drawn(self, mechanism: Mechanism, stream: rng.SecretStream, number: int) -> Assignment:
        """The units that take part in round ``number``: drawn, and in its public group if any.

        A position stands for the invented user of that number, whose group is a hash of it.
        """
        assignment, contract = mechanism.draw(stream, number), self.contract(mechanism, number)
        if not contract.groups:
            return assignment
        keys = assignment.users.astype(np.uint64)
        inside = public_groups.of(keys, contract.groups, contract.seed) == contract.group
        slots = assignment.slots[inside] if len(assignment.slots) else assignment.slots
        return Assignment(assignment.users[inside], slots)

    def clipped(self, rows: np.ndarray, contract: Contract) -> CohortSum:
        """What a node answers for units whose updates before the clip are ``rows``.

        Args:
            rows: (units, D) float32, D a multiple of 4.
            contract: of the round.
        """
        rule = self.clip or clipping.find(contract.clipping)
        size = rows.shape[1]
        layout = Layout.of({str(i): (size // _TENSORS,) for i in range(_TENSORS)})
        clipped = rule(torch.from_numpy(rows), contract.clip_norm, layout)
        total = clipped.total_on_grid(contract.grid) if contract.grid else clipped.total
        bits = None
        if contract.count_unclipped:
            tally = clipping.Tally.empty(torch.device("cpu"))
            tally.add(clipped.norms, contract.clip_norm)
            bits = tally.figures().unclipped_bits
        kept = clipped.rows(contract.grid).numpy() if contract.keep_rows else None
        return CohortSum(total.numpy(), unclipped_bits=bits, rows=kept)


def signs(size: int, count: int, source: np.random.Generator) -> np.ndarray:
    """(count, size) float32 random directions: entries of one size and random sign, norm 1."""
    random_signs = source.integers(0, 2, (count, size)) * 2 - 1
    return (random_signs / math.sqrt(size)).astype(np.float32)


def fitting(dimension: int) -> int:
    """The least admissible dimension of vectors that is at least this."""
    return _TENSORS * math.ceil(dimension / _TENSORS)
