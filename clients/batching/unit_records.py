"""Reads and selects the token sequences of each privacy unit that a node is assigned in a round."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from userdp.clients.batching.packing import Unit
from userdp.sim.common import rng
from userdp.sim.data import public_groups, selection
from userdp.sim.data.population import Population
from userdp.sim.protocol.contract import Assignment, Contract


def fetch(population: Population, contract: Contract, assignment: Assignment) -> Iterator[Unit]:
    """One unit per assigned user, or per assigned record slot, in the order of the assignment.

    A unit is read and selected when the iterator reaches it, so a cohort is never held in memory.
    The random stream of a user's selection is keyed by the user's stable key (and by the round, if
    the rule draws anew in each round): what one user contributes does not depend on other users.

    Yields:
        Units; an empty list for a declared position that no user occupies, and for a record slot
        that stays unfilled. Users outside the contract's public group yield nothing.

    Raises:
        ConfigurationError: the contract's selection rule is in no table and cannot be imported.
    """
    assignment = members(population, contract, assignment)
    if contract.unit == "user":
        return (selected(population, contract, user) for user in assignment.users.tolist())
    return _slot_units(population, contract, assignment)


def members(population: Population, contract: Contract, assignment: Assignment) -> Assignment:
    """The assigned units whose owner is in the contract's public group, if it has groups."""
    if not contract.groups:
        return assignment
    present = assignment.users < len(population)  # not a declared position that no user occupies
    keys = population.user_keys[assignment.users[present]]
    inside = np.zeros(len(present), bool)
    inside[present] = public_groups.of(keys, contract.groups, contract.seed) == contract.group
    slots = assignment.slots[inside] if len(assignment.slots) else assignment.slots
    return Assignment(assignment.users[inside], slots)


def selected(population: Population, contract: Contract, user: int) -> Unit:
    """The sequences of a user that the contract's selection rule chooses, at most k."""
    if user >= len(population):  # a declared position that no user occupies
        return []
    key = int(population.user_keys[user])
    source = rng.generator(
        contract.seed, "selection", key, contract.round if contract.redraw else 0
    )
    rule = selection.RULES.find(contract.selection)
    records = selection.Records(
        tokens=population.records(user), perplexity=population.perplexities(user)
    )
    return rule.select(records, contract.records_per_user, contract.max_tokens, source)


def _slot_units(
    population: Population, contract: Contract, assignment: Assignment
) -> Iterator[Unit]:
    """One unit per assigned record slot: its one sequence, or none."""
    if not len(assignment.users):  # a node is asked for a masked sum without a unit of its own
        return
    owners, starts = np.unique(assignment.users, return_index=True)
    for user, slots in zip(owners.tolist(), np.split(assignment.slots, starts[1:]), strict=True):
        chosen = selected(population, contract, user)
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
