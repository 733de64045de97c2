"""Sampling, sensitivity, noise, denominator and event of a mechanism agree."""

from __future__ import annotations

import dataclasses
import inspect
import math
import random

import numpy as np
import pytest
import torch
from scipy import stats

from userdp.server.mechanisms.adaptive_clip import AdaptiveClip
from userdp.server.mechanisms.base import SET_BY_RUN
from userdp.server.mechanisms.concentrated.mechanism import Concentrated
from userdp.server.mechanisms.group_privacy import GroupPrivacy
from userdp.server.mechanisms.non_private import NonPrivate
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.common import rng
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.protocol.cohort_sum import CohortSum
from userdp.sim.protocol.contract import Contract, LocalWork

USER = UserWise(users=40, cohort=8, records_per_user=3, clip_norm=0.7, noise_multiplier=1.3)
SLOT = GroupPrivacy(users=40, cohort=8, records_per_user=3, clip_norm=0.7, noise_multiplier=1.3)
NONE = NonPrivate(users=40, cohort=8, records_per_user=3)
SIZE = 20_000


def replayed(number=1):
    return rng.Secrets(replay_seed=0).stream("noise", number)


class Silent:
    """A stream whose normals are all zero."""

    def words(self, size):
        return np.full(size, 2**64 - 1, np.uint64)


@pytest.mark.parametrize("mechanism", [USER, SLOT], ids=["user", "slot"])
@pytest.mark.parametrize("total", [0.0, 17.0], ids=["empty", "filled"])
def test_noise_on_the_mean_has_std_z_c_over_m_and_no_other(mechanism, total):
    released = mechanism.release(CohortSum(np.full(SIZE, total)), rng.OsEntropy(), 1).mean
    m = 8 if mechanism is USER else 24
    noise = released - total / m
    std = 1.3 * 0.7 / m
    assert released.dtype == np.float64
    assert len(np.unique(released)) == SIZE
    assert stats.kstest(noise, "norm", args=(0, std)).pvalue > 1e-6
    for wrong in (2 / 3, 3 / 2):
        assert stats.kstest(noise, "norm", args=(0, wrong * std)).pvalue < 1e-6


@pytest.mark.parametrize(("mechanism", "m"), [(USER, 8), (SLOT, 24), (NONE, 8)])
def test_the_denominator_is_the_public_m(mechanism, m):
    total = np.arange(5.0)
    assert mechanism.expected_units == m
    np.testing.assert_allclose(
        mechanism.release(CohortSum(total), Silent(), 1).mean, total / m, rtol=1e-15
    )


@pytest.mark.parametrize("mechanism", [USER, SLOT], ids=["user", "slot"])
def test_one_query_whose_noise_over_sensitivity_is_the_events_multiplier(mechanism):
    [query] = mechanism.queries()
    event = mechanism.event()
    assert query.sensitivity == 0.7
    assert query.noise_std / query.sensitivity == pytest.approx(event.noise_multiplier)
    assert event.sampling_rate == 8 / 40
    assert event.group_size == (1 if mechanism is USER else 3)
    assert mechanism.ledger_event() == event.to_dict()


@pytest.mark.parametrize("mechanism", [USER, SLOT], ids=["user", "slot"])
def test_a_unit_enters_a_round_once_and_positions_are_the_declared_ones(mechanism):
    seen = set()
    for number in range(300):
        drawn = mechanism.draw(replayed(number), number)
        slots = drawn.slots if mechanism is SLOT else np.zeros(len(drawn.users), np.int64)
        units = list(zip(drawn.users.tolist(), slots.tolist(), strict=True))
        assert len(units) == len(set(units))
        assert units == sorted(units)
        seen.update(units)
    assert seen == {(u, s) for u in range(40) for s in range(3 if mechanism is SLOT else 1)}


@pytest.mark.parametrize("mechanism", [USER, SLOT, NONE], ids=["user", "slot", "none"])
def test_a_mechanism_is_made_of_public_numbers_alone(mechanism):
    assert {type(value) for value in vars(mechanism).values()} <= {int, float, str, type(None)}
    assert set(inspect.signature(type(mechanism).draw).parameters) == {"self", "stream", "number"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"users": 0}, "privacy.users=0"),
        ({"cohort": 41}, "cohort=41"),
        ({"cohort": 0}, "cohort=0"),
        ({"cohort": math.nan}, "cohort=nan"),
        ({"records_per_user": -1}, "records_per_user=-1"),
        ({"clip_norm": 0.0}, "clip_norm=0"),
        ({"clip_norm": math.nan}, "clip_norm=nan"),
        ({"clip_norm": math.inf}, "finite"),
        ({"noise_multiplier": 0.0}, "noise_multiplier=0"),
        ({"noise_multiplier": -1.0}, "noise_multiplier=-1"),
        ({"noise_multiplier": math.inf}, "finite"),
        ({"noise_multiplier": math.nan}, "finite"),
        ({"noise_multiplier": 1e-9}, "noise_multiplier=1e-09"),
    ],
)
@pytest.mark.parametrize("mechanism", [USER, SLOT], ids=["user", "slot"])
def test_what_is_no_private_mechanism_is_refused(mechanism, change, message):
    with pytest.raises(ConfigurationError, match=message):
        dataclasses.replace(mechanism, **change)


def test_the_least_noise_that_is_accepted_is_far_above_the_resolution_of_a_full_sum():
    least = dataclasses.replace(USER, noise_multiplier=8 * 2.0**-31)
    full = np.full(SIZE, 40 * least.clip_norm)  # every user at the clip, along every axis
    noise = least.release(CohortSum(full), replayed(), 1).mean * 8 - full
    assert len(np.unique(noise)) > 0.99 * SIZE
    assert np.std(noise) == pytest.approx(least.noise_std, rel=0.03)


def test_global_seeds_do_not_replay_the_noise():
    def released():
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        return USER.release(CohortSum(np.zeros(8)), rng.Secrets().stream("noise", 1), 1).mean

    assert not np.isin(released(), released()).any()


def test_noise_of_different_rounds_is_uncorrelated():
    first, second = (
        USER.release(CohortSum(np.zeros(SIZE)), replayed(number), number).mean for number in (1, 2)
    )
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / math.sqrt(SIZE)


# --- contract and options -------------------------------------------------------------------------

WORK = LocalWork(
    selection="random",
    redraw=True,
    resample=True,
    max_tokens=16,
    local_steps=3,
    local_lr=0.5,
    seed=7,
)


@pytest.mark.parametrize("mechanism", [USER, SLOT, NONE], ids=["user", "slot", "none"])
def test_a_contract_has_the_local_work_and_the_mechanisms_clip_and_unit(mechanism):
    contract = mechanism.contract(4, WORK)
    for name in ("selection", "resample", "max_tokens", "local_steps", "local_lr", "seed"):
        assert getattr(contract, name) == getattr(WORK, name)
    assert (contract.round, contract.unit) == (4, mechanism.unit)
    assert (contract.clip_norm, contract.records_per_user) == (mechanism.clip_norm, 3)
    assert contract.clipping == "joint"
    assert not contract.count_unclipped
    assert not contract.keep_rows


def test_what_the_guarantee_needs_comes_from_the_mechanism_whatever_the_work_says():
    """A contract is local work too: its own unit, clip norm and reports must not survive."""
    lax = Contract(
        **vars(WORK),
        round=99,
        unit="record",
        clip_norm=math.inf,
        records_per_user=0,
        clipping="none",
        count_unclipped=True,
        keep_rows=True,
    )
    assert USER.contract(4, lax) == USER.contract(4, WORK)


@pytest.mark.parametrize("redraw", [True, False])
def test_only_users_select_anew_and_slots_are_filled_once(redraw):
    work = dataclasses.replace(WORK, redraw=redraw)
    assert USER.contract(1, work).redraw == redraw
    assert not SLOT.contract(1, work).redraw


def test_reports_are_asked_for_where_the_mechanism_needs_them():
    adaptive = dataclasses.replace(USER, adaptive=AdaptiveClip(bit_noise=2.0))
    assert adaptive.contract(1, WORK).count_unclipped
    concentrated = Concentrated(
        users=40, cohort=20, records_per_user=3, clip_norm=0.7, noise_multiplier=1.3
    )
    assert concentrated.contract(1, WORK).keep_rows


def test_options_are_the_fields_that_a_class_adds_for_a_configuration():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Extended(UserWise):
        strength: float = 1.0
        rounds_seen: int = dataclasses.field(default=0, metadata=SET_BY_RUN)

    assert set(Extended.options()) == {"cohort_max", "strength"}
    assert Extended.options()["strength"].default == 1.0
    assert set(GroupPrivacy.options()) == set()
