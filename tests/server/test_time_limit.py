"""A node that never answers meets the time limit, and a runtime's error is one line."""

from __future__ import annotations

import threading
import time

import pytest
from flwr.serverapp import Grid

from helpers import tiny
from userdp.server.ledger.ledger import verify
from userdp.server.mechanisms.user_wise import UserWise
from userdp.server.strategy import BudgetSpentError, NodeFailedError
from userdp.server.time_limit import RuntimeFailedError, TimeLimitedGrid
from userdp.sim.common.errors import ConfigurationError

USER = UserWise(users=6, cohort=3, records_per_user=2, clip_norm=0.05, noise_multiplier=1.2)
SECRET = "my locker code is 4711"
LIMIT = 0.4  # seconds


class Replying(Grid):
    """A grid that replies by a generator function of the messages, and keeps no limit."""

    def __init__(self, reply):
        self.reply, self.told = reply, []

    def send_and_receive(self, messages, *, timeout=None):
        self.told.append(timeout)
        return self.reply(messages)

    get_node_ids = push_messages = pull_messages = create_message = set_run = run = None


def silent(forever):
    """Answers the first message, and then nothing for as long as ``forever`` is not set."""

    def reply(messages):
        yield messages[0]
        forever.wait(30)
        yield messages[1]

    return reply


def test_replies_that_come_within_the_limit_are_given_and_the_others_are_not_waited_for():
    forever = threading.Event()
    grid, start = Replying(silent(forever)), time.monotonic()
    assert list(TimeLimitedGrid(grid, LIMIT).send_and_receive(["a", "b"])) == ["a"]
    assert LIMIT <= time.monotonic() - start < 10 * LIMIT
    assert grid.told == [LIMIT]
    forever.set()


@pytest.mark.parametrize("limit", [None, 30.0])
def test_within_the_limit_the_replies_are_those_of_the_grid(limit):
    grid = Replying(lambda messages: (message * 2 for message in messages))
    assert list(TimeLimitedGrid(grid, limit).send_and_receive("abc")) == ["aa", "bb", "cc"]
    assert grid.told == [limit]


@pytest.mark.parametrize("limit", [None, 30.0])
def test_an_error_of_the_runtime_is_named_without_its_text(limit):
    def failing(messages):
        yield messages[0]
        raise OSError(SECRET)

    def misconfigured(messages):
        raise ConfigurationError("runtime.options.port=x: ...")

    replies = TimeLimitedGrid(Replying(failing), limit).send_and_receive("ab")
    assert next(replies) == "a"
    with pytest.raises(RuntimeFailedError, match="OSError") as error:
        next(replies)
    assert "locker" not in str(error.value)
    with pytest.raises(ConfigurationError):
        list(TimeLimitedGrid(Replying(misconfigured), limit).send_and_receive("ab"))


def test_messages_are_made_by_the_caller_whose_errors_pass_through():
    def spent():
        yield "a"
        raise BudgetSpentError

    with pytest.raises(BudgetSpentError):
        TimeLimitedGrid(Replying(iter), 1.0).send_and_receive(spent())


def hanging(forever):
    def train(host, message):
        if message.metadata.dst_node_id == 3:
            forever.wait(30)
        return host.train(message)

    return train


@pytest.mark.parametrize("drop", [False, True])
def test_a_node_that_never_answers_stops_the_run_or_is_dropped_as_a_failed_one(tmp_path, drop):
    forever = threading.Event()
    options = {"nodes": 2, "cohort": tiny.everyone(6), "train": hanging(forever)}
    run = tiny.federation(tmp_path, USER, tiny.people(6), drop_failed_nodes=drop, **options)
    run.strategy.timeout = LIMIT
    try:
        if drop:
            run.run(1)
            assert len(run.mechanism.means) == 1
        else:
            with pytest.raises(NodeFailedError, match="failed twice"):
                run.run(2)
            assert run.mechanism.means == []
            assert verify(run.path).unfinished == (1,)
    finally:
        forever.set()


@pytest.mark.parametrize("call", ["get_node_ids", "send_and_receive"])
def test_a_runtime_that_raises_stops_the_run(tmp_path, monkeypatch, call):
    run = tiny.federation(tmp_path, USER, tiny.people(6), cohort=tiny.everyone(6))

    def failing(*_, **__):
        raise ConnectionError(SECRET)

    monkeypatch.setattr(run.grid, call, failing)
    with pytest.raises(NodeFailedError, match="ConnectionError") as stop:
        run.run(1)
    assert "locker" not in str(stop.value)
    assert verify(run.path).rounds == (call == "send_and_receive")


def test_a_runtime_without_a_node_stops_the_run_before_a_round_is_spent(tmp_path, monkeypatch):
    run = tiny.federation(tmp_path, USER, tiny.people(6))
    monkeypatch.setattr(run.grid, "get_node_ids", list)
    with pytest.raises(NodeFailedError, match="no node"):
        run.run(1)
    assert verify(run.path).rounds == 0
