"""The sequences of a unit depend on its own user and the contract, and on nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from helpers import tiny
from userdp.clients.batching import unit_records
from userdp.server.mechanisms.group_privacy import GroupPrivacy
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.data import selection
from userdp.sim.data.population import Population
from userdp.sim.protocol.contract import Assignment

PUBLIC = {"users": 8, "cohort": 4, "clip_norm": 0.1, "noise_multiplier": 1.0}
BY_USER = tiny.contract(UserWise(records_per_user=3, **PUBLIC))
BY_SLOT = tiny.contract(GroupPrivacy(records_per_user=3, **PUBLIC))


def fetched(population, contract, assignment=None):
    k = contract.records_per_user if contract.unit == "record_slot" else None
    got = unit_records.fetch(population, contract, assignment or tiny.everyone(len(population), k))
    return [[tuple(record) for record in unit] for unit in got]


@pytest.mark.parametrize("rule", list(selection.RULES))
@pytest.mark.parametrize("usual", [BY_USER, BY_SLOT], ids=["user", "slot"])
def test_every_other_users_units_stay_the_same_without_a_user(rule, usual):
    population = tiny.scored(tiny.people(6))
    contract = dataclasses.replace(usual, selection=rule, round=4)
    with_all = fetched(population, contract)
    per_user = len(with_all) // 6
    for gone in range(6):
        wanted = list(with_all)
        wanted[gone * per_user : (gone + 1) * per_user] = [[]] * per_user
        assert fetched(population.emptied(gone), contract) == wanted


@pytest.mark.parametrize("rule", list(selection.RULES))
@pytest.mark.parametrize("usual", [BY_USER, BY_SLOT], ids=["user", "slot"])
def test_a_users_units_stay_the_same_when_all_others_are_swapped(rule, usual):
    """Scores included: those of the second population are computed anew."""
    records = [record.tolist() for unit in tiny.ragged_units(9, seed=5) for record in unit][:7]
    contract = dataclasses.replace(usual, selection=rule, round=4)
    seen = []
    for seed in (1, 2):
        others = tiny.ragged_units(3, seed)
        lists = {f"{seed}-{i}": [r.tolist() for r in unit] for i, unit in enumerate(others)}
        seen.append(fetched(tiny.scored(Population.of({"ada": records, **lists})), contract))
    per_user = len(seen[0]) // 4
    assert seen[0][:per_user] == seen[1][:per_user]
    assert seen[0][per_user:] != seen[1][per_user:]


@pytest.mark.parametrize("usual", [BY_USER, BY_SLOT], ids=["user", "slot"])
def test_units_follow_the_users_id_not_the_position(usual):
    names = {f"user{i}": population_lists(i) for i in range(5)}
    contract = dataclasses.replace(usual, records_per_user=9)  # more slots than records
    there = fetched(Population.of(names), contract)
    moved = fetched(Population.of({"new": [[1, 2, 3]], **names}), contract)
    assert moved[len(moved) // 6 :] == there


def population_lists(number):
    return [[number, j, j + 1] for j in range(number + 2)]


@pytest.mark.parametrize("usual", [BY_USER, BY_SLOT], ids=["user", "slot"])
def test_units_do_not_depend_on_the_other_assigned_users(usual):
    population = tiny.people(6)
    k = None if usual.unit == "user" else 3
    together = fetched(population, usual)
    everyone = tiny.everyone(6, k)
    for i in range(len(together)):
        alone = Assignment(everyone.users[i : i + 1], everyone.slots[i : i + 1])
        assert fetched(population, usual, alone) == [together[i]]


def test_a_unit_of_a_user_holds_at_most_k_of_their_own_records_cut_to_length():
    population = tiny.people(8)
    contract = dataclasses.replace(BY_USER, max_tokens=5)
    for user, unit in enumerate(fetched(population, contract)):
        own = [tuple(record[:5]) for record in population.records(user)]
        assert len(unit) == min(3, len(own))
        assert set(unit) <= set(own)


def test_a_unit_by_perplexity_holds_the_users_own_extreme_records():
    population = tiny.scored(tiny.people(8))
    for rule, sign in [("low_perplexity", 1), ("high_perplexity", -1)]:
        contract = dataclasses.replace(BY_USER, selection=rule, records_per_user=2)
        for user, unit in enumerate(fetched(population, contract)):
            own = [tuple(record[:16]) for record in population.records(user)]
            scores = dict(zip(own, population.perplexities(user), strict=True))
            assert unit == sorted(own, key=lambda record: sign * scores[record])[:2]


def test_k_zero_takes_all_of_a_users_records():
    population = tiny.people(8)
    contract = dataclasses.replace(BY_USER, records_per_user=0)
    for user, unit in enumerate(fetched(population, contract)):
        assert sorted(unit) == sorted(tuple(r[:16]) for r in population.records(user))


def test_a_slot_is_one_record_or_none_and_the_first_slots_are_distinct_records():
    population = tiny.people(8)
    refilled = fetched(population, BY_SLOT)
    empty = fetched(population, dataclasses.replace(BY_SLOT, resample=False))
    counts = np.minimum(np.diff(population.user_offsets), 3)
    for user, count in enumerate(counts):
        full, sparse = (units[3 * user : 3 * user + 3] for units in (refilled, empty))
        assert [len(unit) for unit in full] == [1, 1, 1]
        assert sparse == [*full[:count], *[[]] * (3 - count)]


def test_a_selection_is_drawn_anew_each_round_only_where_the_contract_says_so():
    population = Population.of({"ada": [[i, i + 1] for i in range(40)]})
    for redraw, different in [(True, 12), (False, 1)]:
        seen = {
            tuple(fetched(population, dataclasses.replace(BY_USER, redraw=redraw, round=r))[0])
            for r in range(12)
        }
        assert len(seen) == different


def test_sequences_that_predict_nothing_are_left_out():
    population = Population.of({"a": [[5], [1, 2]], "b": [[7]]})
    assert fetched(population, BY_USER) == [[(1, 2)], []]
    assert fetched(population, BY_SLOT) == [[(1, 2)]] * 3 + [[]] * 3


def test_declared_positions_that_no_user_occupies_are_empty_units():
    population = tiny.people(2)
    assert fetched(population, BY_USER, tiny.everyone(5))[2:] == [[]] * 3
    assert fetched(population, BY_SLOT, tiny.everyone(5, 3))[6:] == [[]] * 9


@pytest.mark.parametrize("contract", [BY_USER, BY_SLOT], ids=["user", "slot"])
def test_a_node_without_a_sampled_unit_has_no_unit(contract):
    """With secure sums such a node is asked too, and answers zero."""
    nobody = Assignment(np.empty(0, np.int64), np.empty(0, np.int64))
    assert fetched(tiny.people(2), contract, nobody) == []
