"""The in-process grid: one reply a message, in order, on demand, and silent about data."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from userdp.sim.runtime.in_process import InProcessGrid

MARKER = "my locker code is 4711"


def grid_of(train, nodes=3):
    app = ClientApp()
    app.train()(train)
    return InProcessGrid(app, nodes)


def number_of(message):
    return message.content["n"]["value"]


def messages(*numbers):
    return [
        Message(
            RecordDict({"n": MetricRecord({"value": n})}),
            dst_node_id=2 + n % 3,
            message_type="train",
        )
        for n in numbers
    ]


def echo(message, context):
    record = MetricRecord({"value": number_of(message), "node": context.node_id})
    return Message(RecordDict({"n": record}), reply_to=message)


def test_each_message_is_answered_by_its_node_in_order():
    grid = grid_of(echo)
    replies = list(grid.send_and_receive(messages(4, 1, 5)))
    assert [number_of(reply) for reply in replies] == [4, 1, 5]
    assert [reply.metadata.src_node_id for reply in replies] == [3, 3, 4]
    assert [reply.content["n"]["node"] for reply in replies] == [3, 3, 4]


def test_a_message_is_delivered_when_its_reply_is_asked_for():
    delivered = []
    grid = grid_of(lambda message, c: delivered.append(number_of(message)) or echo(message, c))
    replies = grid.send_and_receive(messages(1, 2))
    assert delivered == []
    next(iter(replies))
    assert delivered == [1]


def test_pushed_messages_are_pulled_by_their_names_once():
    grid = grid_of(echo)
    names = grid.push_messages(messages(1, 2))
    assert len(set(names)) == 2
    assert [number_of(reply) for reply in grid.pull_messages(reversed(names))] == [2, 1]
    assert list(grid.pull_messages(names)) == []


def test_nodes_are_known_before_anything_is_sent():
    assert grid_of(echo, nodes=7).get_node_ids() == list(range(2, 9))
    with pytest.raises(ValueError, match="nodes=0"):
        grid_of(echo, nodes=0)


def fail(message, context):
    try:
        raise KeyError(MARKER)
    except KeyError as error:
        raise ValueError(f"cannot read {MARKER!r}") from error


def test_a_node_that_raises_answers_with_the_kind_of_its_error_and_no_text(caplog, capsys):
    with caplog.at_level(logging.DEBUG):
        [reply] = grid_of(fail).send_and_receive(messages(1))
    assert reply.has_error()
    assert (reply.error.code, reply.error.reason) == (2, "ValueError")  # of Flower
    assert reply.metadata.src_node_id == 3
    output = "".join([caplog.text, *capsys.readouterr(), repr(reply)])
    assert "locker" not in output
    assert "test_in_process.py" in caplog.text  # where it happened


def test_other_nodes_answer_when_one_fails():
    def odd_fails(message, context):
        return fail(message, context) if number_of(message) % 2 else echo(message, context)

    replies = list(grid_of(odd_fails).send_and_receive(messages(0, 1, 2)))
    assert [reply.has_error() for reply in replies] == [False, True, False]


def test_arrays_arrive_bit_for_bit():
    vector = np.random.default_rng(0).standard_normal(50)

    def send_back(message, context):
        return Message(RecordDict({"a": ArrayRecord({"x": Array(vector)})}), reply_to=message)

    [reply] = grid_of(send_back).send_and_receive(messages(1))
    np.testing.assert_array_equal(reply.content["a"]["x"].numpy(), vector)
