"""The roll call finds the nodes' parts of the users, whatever Flower's numbers of them are."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from helpers import small_apps, tiny
from userdp.clients.app import Host, client_app
from userdp.clients.training.memory import EngineSettings
from userdp.server.mechanisms.user_wise import UserWise
from userdp.server.roll_call import RollCall, RollCallError
from userdp.server.strategy import NodeFailedError
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.protocol import messages
from userdp.sim.runtime.in_process import InProcessGrid

USERS = 7
MODEL = tiny.language_model()


class Numbered(InProcessGrid):
    """A grid that numbers its nodes as it likes, as Flower does; ``parts`` are in its order."""

    def __init__(self, app, numbers, parts, partitions=None):
        super().__init__(app, len(numbers))
        count = len(parts) if partitions is None else partitions
        self._contexts = {
            number: Context(
                0, number, {"partition-id": part, "num-partitions": count}, RecordDict(), {}
            )
            for number, part in zip(numbers, parts, strict=True)
        }


def host(users=USERS, **fields):
    named = {"population_id": "people"} | fields
    return Host(MODEL, tiny.people(users), EngineSettings(max_tokens=128), **named)


def roll_call(nodes, users=USERS, layout=MODEL.layout.digest, patience=0.2, **fields):
    return RollCall(nodes, users, layout, patience, **fields)


def test_nodes_are_put_in_the_order_of_their_parts():
    grid = Numbered(client_app(host()), [901, 17, 555], [1, 2, 0])
    assert roll_call(3).hosts(grid) == [555, 901, 17]


def test_a_node_that_started_again_under_another_number_is_asked_once_more():
    app, call = client_app(host()), roll_call(2)
    assert call.hosts(Numbered(app, [9, 4], [0, 1])) == [9, 4]
    assert call.hosts(Numbered(app, [77, 4], [0, 1])) == [77, 4]


def test_the_server_waits_for_nodes_that_come_late():
    grid, looks = Numbered(client_app(host()), [3, 8], [0, 1]), []
    everyone = grid.get_node_ids()
    grid.get_node_ids = lambda: looks.append(1) or everyone[: len(looks)]
    assert roll_call(2, patience=30).hosts(grid) == [3, 8]


@pytest.mark.parametrize(
    ("parts", "partitions", "nodes", "reason"),
    [
        ([0, 1], None, 3, "the runtime has 2 after"),
        ([0, 0], None, 2, "host the same part"),
        ([0, 1], 4, 2, "one of 4 nodes by its own account"),
        ([1, 2], 2, 2, "host the same part"),
    ],
)
def test_nodes_that_would_leave_a_user_out_or_take_one_twice_are_refused(
    parts, partitions, nodes, reason
):
    grid = Numbered(client_app(host()), [5, 6], parts, partitions)
    with pytest.raises(RollCallError, match=reason):
        roll_call(nodes).hosts(grid)


@pytest.mark.parametrize(
    ("of_nodes", "of_server", "one"),
    [
        (["a", "a"], "a", True),
        (["a", "a"], None, True),  # the server has no part of the data
        (["a", "b"], None, False),
        (["a", "b"], "a", False),
        (["b", "b"], "a", False),
        (["", "a"], None, False),
        (["", ""], None, False),  # nothing tells them apart
        (["", ""], "", False),
    ],
)
def test_nodes_with_users_of_two_populations_are_refused(of_nodes, of_server, one):
    """By position each user is on one node; a user of both populations is on two."""
    app = small_apps.by_part(*(host(population_id=of_node) for of_node in of_nodes))
    grid, call = Numbered(app, [5, 6], [0, 1]), roll_call(2, population=of_server)
    if one:
        assert call.hosts(grid) == [5, 6]
    else:
        with pytest.raises(RollCallError, match="a user may be on two nodes"):
            call.hosts(grid)


def test_another_adapter_and_another_app_are_refused():
    with pytest.raises(RollCallError, match="another adapter"):
        roll_call(1, layout="0" * 16).hosts(Numbered(client_app(host()), [5], [0]))
    foreign = ClientApp()
    foreign.query()(lambda message, _: Message(RecordDict(), reply_to=message))
    for app in (foreign, ClientApp()):
        with pytest.raises(RollCallError, match="does not answer as userdp's ClientApp"):
            roll_call(1).hosts(Numbered(app, [5], [0]))


@pytest.mark.parametrize("declared", [USERS * 2, USERS * 2 - 1, USERS * 2 - 2])
def test_a_node_with_more_users_than_its_share_of_the_declared_positions_is_refused(declared):
    """Node 0 of 2 hosts positions 0, 2, ...: of 13 it has 7, of 12 it has 6."""
    grid = Numbered(client_app(host(own_users=True)), [5, 6], [0, 1])
    call = roll_call(2, users=declared)
    if declared == USERS * 2:
        assert call.hosts(grid) == [5, 6]
    else:
        with pytest.raises(RollCallError, match="does not answer"):
            call.hosts(grid)


def test_a_strategy_spends_no_round_where_the_nodes_are_not_its_own(tmp_path):
    mechanism = UserWise(
        users=USERS, cohort=3, records_per_user=2, clip_norm=0.1, noise_multiplier=1.0
    )
    run = tiny.federation(tmp_path, mechanism, tiny.people(USERS))
    run.strategy.roll_call = roll_call(1)  # its app has no query function: it is foreign
    with pytest.raises(NodeFailedError, match=r"does not answer as .* no round was spent"):
        run.run(1)
    assert [entry["kind"] for entry in run.entries()] == ["header"]


def sums(own, nodes):
    """The sum over all nodes for the same cohort, and each node's own."""
    mechanism = UserWise(
        users=USERS, cohort=3, records_per_user=2, clip_norm=0.1, noise_multiplier=1.0
    )
    population, found = tiny.people(USERS), []
    for part in range(nodes):
        mine = tiny.hosted(population, part, nodes) if own else population
        one = Host(MODEL, mine, EngineSettings(max_tokens=128), own_users=own)
        grid = Numbered(client_app(one), [5], [part], nodes)
        assigned = tiny.everyone(USERS)
        users = assigned.users[assigned.users % nodes == part]
        request = messages.train_message(
            5,
            MODEL.layout.to_arrays(MODEL.initial.numpy()),
            tiny.contract(mechanism),
            type(assigned)(users, assigned.slots),
        )
        [reply] = grid.send_and_receive([request])
        found.append(messages.read_reply(reply, MODEL.layout).total)
    return np.array(found)


@pytest.mark.parametrize("nodes", [2, 3])
def test_a_node_with_its_own_users_alone_answers_as_one_with_everybody(nodes):
    np.testing.assert_allclose(sums(True, nodes), sums(False, nodes), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(sums(True, nodes).sum(0), sums(False, 1).sum(0), atol=1e-6)
    assert (np.linalg.norm(sums(True, nodes), axis=1) > 0).all()


@pytest.mark.parametrize("own", [False, True])
def test_a_node_refuses_a_user_whom_another_node_hosts(own):
    grid = Numbered(client_app(host(own_users=own)), [5], [1], 2)
    mechanism = UserWise(
        users=USERS, cohort=3, records_per_user=2, clip_norm=0.1, noise_multiplier=1.0
    )
    request = messages.train_message(
        5,
        MODEL.layout.to_arrays(MODEL.initial.numpy()),
        tiny.contract(mechanism),
        tiny.everyone(2),
    )
    [reply] = grid.send_and_receive([request])
    assert reply.has_error()
    assert "ValueError at clients/app.py" in reply.error.reason


def test_flowers_own_strategy_is_told_what_our_app_needs():
    grid = InProcessGrid(client_app(host()), 2)
    arrays = MODEL.layout.to_arrays(MODEL.initial.numpy())
    strategy = FedAvg(min_train_nodes=2, min_available_nodes=2)
    requests = [
        *strategy.configure_train(1, arrays, messages.ConfigRecord(), grid),
        *strategy.configure_evaluate(1, arrays, messages.ConfigRecord(), grid),
    ]
    replies = list(grid.send_and_receive(requests))
    reasons = [reply.error.reason for reply in replies if reply.has_error()]
    assert len(reasons) == len(replies) == 4
    assert all("userdp's" in reason and "PrivateStrategy" in reason for reason in reasons)
    assert "the message lacks adapter and contract and assignment" in reasons[0]


def test_the_error_of_a_train_message_quotes_no_record():
    class Careless(Host):
        def train(self, message, place=None):
            raise ValueError("my locker code is 4711")

    population = tiny.people(USERS)
    grid = InProcessGrid(client_app(Careless(MODEL, population, EngineSettings())), 1)
    request = messages.introduction_request(2, USERS)
    request.metadata.__dict__["_message_type"] = messages.TRAIN
    [reply] = grid.send_and_receive([request])
    assert "ValueError" in reply.error.reason
    assert "locker" not in reply.error.reason


def test_our_errors_keep_their_text():
    with pytest.raises(ConfigurationError, match="a node has more users than its share"):
        host(own_users=True).introduce(
            messages.introduction_request(2, 5), host().place(Context(0, 2, {}, RecordDict(), {}))
        )
