"""Messages: what is written is read back, and a reply says nothing of a single user."""

from __future__ import annotations

import math

import numpy as np
import pytest
from flwr.app import Error, Message
from flwr.clientapp import ClientApp
from hypothesis import given
from hypothesis import strategies as st

from helpers import tiny
from userdp.server.mechanisms.group_privacy import GroupPrivacy
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.protocol import messages
from userdp.sim.protocol.cohort_sum import CohortSum
from userdp.sim.protocol.contract import Assignment
from userdp.sim.protocol.layout import Layout
from userdp.sim.runtime.in_process import InProcessGrid
from userdp.sim.tracking import metric_kinds

LAYOUT = Layout.of({"b.lora_A": (2, 3), "a.lora_B": (4, 2), "c": (1,)})
USER = UserWise(users=9, cohort=3, records_per_user=2, clip_norm=0.5, noise_multiplier=1.0)
SHAPES = st.dictionaries(
    st.text(min_size=1, max_size=4),
    st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    min_size=1,
    max_size=5,
)


@pytest.fixture(autouse=True)
def _server():
    """A message's sender is the process that made a grid."""
    InProcessGrid(ClientApp(), 1)


def message(contract=None, assignment=None):
    vector = np.arange(LAYOUT.size, dtype=np.float32)
    return messages.train_message(
        5,
        LAYOUT.to_arrays(vector),
        contract or tiny.contract(USER),
        assignment or tiny.everyone(3),
    )


@given(SHAPES, st.sampled_from([np.float32, np.float64]))
def test_a_vector_survives_its_names(shapes, dtype):
    layout = Layout.of(shapes)
    vector = np.random.default_rng(0).standard_normal(layout.size).astype(dtype)
    back = layout.to_vector(layout.to_arrays(vector))
    np.testing.assert_array_equal(back, vector)
    assert back.dtype == dtype
    assert {name: t.shape for name, t in layout.named(vector).items()} == shapes


def test_names_may_arrive_in_another_order():
    vector = np.arange(float(LAYOUT.size))
    arrays = LAYOUT.to_arrays(vector)
    turned = type(arrays)(dict(reversed(list(arrays.items()))))
    np.testing.assert_array_equal(LAYOUT.to_vector(turned), vector)


@pytest.mark.parametrize(
    "shapes",
    [
        {"b.lora_A": (3, 2), "a.lora_B": (4, 2), "c": (1,)},
        {"b.lora_A": (2, 3), "a.lora_B": (4, 2)},
        {"b.lora_A": (2, 3), "a.lora_B": (4, 2), "d": (1,)},
    ],
    ids=["shape", "missing", "name"],
)
def test_another_adapters_arrays_are_refused(shapes):
    other = Layout.of(shapes)
    with pytest.raises(ValueError, match="not those of this adapter"):
        LAYOUT.to_vector(other.to_arrays(np.zeros(other.size)))
    assert other.digest != LAYOUT.digest


@pytest.mark.parametrize(
    "assignment",
    [
        Assignment(np.array([1, 4]), np.empty(0, np.int64)),
        Assignment(np.array([1, 1, 4]), np.array([0, 2, 1])),
    ],
    ids=["users", "slots"],
)
@pytest.mark.parametrize("changes", [{}, {"clip_norm": math.inf, "unit": "record_slot"}])
def test_a_train_message_is_read_as_it_was_written(assignment, changes):
    contract = tiny.contract(USER, round=3, **changes)
    sent = message(contract, assignment)
    arrays, read, units = messages.read_train(sent)
    assert read == contract
    np.testing.assert_array_equal(units.users, assignment.users)
    np.testing.assert_array_equal(units.slots, assignment.slots)
    assert units.users.dtype == units.slots.dtype == np.int64
    np.testing.assert_array_equal(LAYOUT.to_vector(arrays), np.arange(LAYOUT.size))
    assert (sent.metadata.dst_node_id, sent.metadata.group_id) == (5, "3")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_scale_is_read_as_it_was_written_and_a_message_without_one_says_none(dtype):
    scale = np.geomspace(1e-8, 1e8, LAYOUT.size).astype(dtype)
    sent = messages.train_message(
        5,
        LAYOUT.to_arrays(np.zeros(LAYOUT.size)),
        tiny.contract(USER),
        tiny.everyone(3),
        LAYOUT.to_arrays(scale),
    )
    read = messages.read_scale(sent)
    np.testing.assert_array_equal(LAYOUT.to_vector(read), scale)
    assert LAYOUT.to_vector(read).dtype == dtype
    arrays, _, _ = messages.read_train(sent)
    np.testing.assert_array_equal(LAYOUT.to_vector(arrays), np.zeros(LAYOUT.size))
    assert messages.read_scale(message()) is None


def test_a_reply_is_read_as_it_was_written_in_full_precision():
    total = np.random.default_rng(0).standard_normal(LAYOUT.size)
    reply = messages.train_reply(message(), LAYOUT, CohortSum(total, {"cohort_size": 3.0}))
    read = messages.read_reply(reply, LAYOUT)
    np.testing.assert_array_equal(read.total, total)
    assert read.total.dtype == np.float64
    assert read.figures == {"cohort_size": 3.0}


@pytest.mark.parametrize("units", [0, 1, 3])
def test_rows_are_read_as_they_were_written_in_full_precision(units):
    rows = np.random.default_rng(0).standard_normal((units, LAYOUT.size))
    reply = messages.train_reply(message(), LAYOUT, CohortSum(rows.sum(0), {}, rows=rows))
    read = messages.read_reply(reply, LAYOUT).rows
    np.testing.assert_array_equal(read, rows)
    assert (read.shape, read.dtype) == (rows.shape, np.float64)
    plain = messages.train_reply(message(), LAYOUT, CohortSum(rows.sum(0), {}))
    assert messages.read_reply(plain, LAYOUT).rows is None


@pytest.mark.parametrize(
    "rows",
    [np.zeros(LAYOUT.size), np.zeros((2, LAYOUT.size + 1)), np.zeros((2, LAYOUT.size), np.float32)],
    ids=["flat", "wide", "narrow"],
)
def test_rows_that_are_no_updates_are_refused(rows):
    reply = messages.train_reply(message(), LAYOUT, CohortSum(np.zeros(LAYOUT.size), {}, rows=rows))
    with pytest.raises(ValueError, match="rows"):
        messages.read_reply(reply, LAYOUT)


@pytest.mark.parametrize("users", [1, 6])
@pytest.mark.parametrize("kind", [UserWise, GroupPrivacy])
def test_a_reply_holds_one_sum_and_declared_figures_even_from_a_node_of_one_user(
    users, kind, tmp_path
):
    mechanism = kind(users=6, cohort=3, records_per_user=2, clip_norm=0.5, noise_multiplier=1.0)
    replies = []
    run = tiny.federation(
        tmp_path,
        mechanism,
        tiny.people(6),
        cohort=tiny.everyone(users, 2 if kind is GroupPrivacy else None),
        train=lambda host, request: replies.append(host.train(request)) or replies[-1],
    )
    run.run()
    [reply] = replies
    content = reply.content
    assert set(content) == {"clipped_sum", "simulation_only"}
    size = run.host.model.layout.size
    assert sum(a.numpy().size for a in content["clipped_sum"].values()) == size
    sums = {"clipped_units", "update_norms", "train_losses"}  # of what the server averages
    known = {
        k for k in metric_kinds.METRICS if metric_kinds.kind(k) is metric_kinds.Kind.SIMULATION_ONLY
    }
    assert set(content["simulation_only"]) <= known | sums
    assert all(isinstance(v, int | float) for v in content["simulation_only"].values())


def test_an_error_reply_holds_no_sum():
    reply = Message(Error(3, "ValueError"), reply_to=message())
    assert reply.has_error()
    with pytest.raises(ValueError, match="content"):
        messages.read_reply(reply, LAYOUT)
