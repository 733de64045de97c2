"""What a node fetches for a round: the token sequences of each privacy unit it was asked for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from userdp.clients.batching.packing import Unit
from userdp.sim.common import rng
from userdp.sim.data import selection
from userdp.sim.data.population import Population
from userdp.sim.protocol.messages import Assignment, Contract


def fetch(population: Population, contract: Contract, assignment: Assignment) -> Iterator[Unit]:
    """One unit per assigned user, or per assigned record slot; empty positions give empty units.

    Each is read and selected when it is asked for: no cohort is held in memory.

    Selection is keyed by the user's stable key (and the round, where the rule draws anew), so what
    one user contributes does not depend on who else exists.
    """
    if contract.unit == "user":
        return (_selected(population, contract, user) for user in assignment.users.tolist())
    return _slot_units(population, contract, assignment)


def _selected(population: Population, contract: Contract, user: int) -> Unit:
    if user >= len(population):  # a declared position that nobody takes
        return []
    key = int(population.user_keys[user])
    source = rng.generator(
        contract.seed, "selection", key, contract.round if contract.redraw else 0
    )
    rule = selection.RULES.find(contract.selection).select
    own = selection.Records(
        tokens=population.records(user), perplexity=population.perplexities(user)
    )
    return rule(own, contract.records_per_user, contract.max_tokens, source)


def _slot_units(
    population: Population, contract: Contract, assignment: Assignment
) -> Iterator[Unit]:
    owners, starts = np.unique(assignment.users, return_index=True)
    for user, slots in zip(owners.tolist(), np.split(assignment.slots, starts[1:]), strict=True):
        chosen = _selected(population, contract, user)
        key = int(population.user_keys[user]) if chosen else 0
        filled = selection.fill_slots(
            chosen,
            contract.records_per_user,
            resample=contract.resample,
            source=rng.generator(contract.seed, "resample", key),
        )
        for slot in slots.tolist():
            record = filled[slot]
            yield [] if record is None else [record]
