"""The worker of a node: for which users it stands, what it tells of errors, how it goes on."""

from __future__ import annotations

import logging

import httpx
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from helpers import federations, small_apps
from userdp.server.roll_call import RollCall, RollCallError
from userdp.sim import cli
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import hydra_compose
from userdp.sim.data.sources import shard as shards
from userdp.sim.data.sources.shard import Shard
from userdp.sim.federation import node, shard
from userdp.sim.runtime.in_process import InProcessGrid

SHARD = Shard(cut="0" * 32, part=1, parts=4, data_format="x", data={}, words=())
MARKER = "my locker code is 4711"


def asked(answer, partition=1, partitions=4):
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, 1, 1
    message = Message(RecordDict({"x": ConfigRecord({"n": 1})}), 7, "train", group_id="1")
    place = {"partition-id": partition, "num-partitions": partitions}
    return answer(message, Context(1, 7, place, RecordDict(), {}))


def failing(error):
    def app(message, context):
        raise error

    return node.answering(app, SHARD)


def test_a_message_goes_to_the_app_of_the_right_part():
    answer = node.answering(lambda message, context: "reply", SHARD)
    assert asked(answer) == "reply"
    for place in ((0, 4), (1, 3), (None, None), ("1", 4)):
        reply = asked(answer, *place)
        assert reply.has_error()
        assert "its shard is part 1 of 4" in reply.error.reason


def test_the_text_of_an_error_is_neither_sent_nor_logged(caplog):
    with caplog.at_level(logging.ERROR, "userdp"):
        reply = asked(failing(ValueError(MARKER)))
    assert reply.error.reason == "ValueError"
    assert MARKER not in caplog.text
    assert "test_node.py" in caplog.text
    ours = asked(failing(ConfigurationError("declare more")))
    assert ours.error.reason == "declare more"


def test_nodes_with_shards_of_two_cuts_do_not_pass_the_roll_call(tmp_path):
    """Their parts of the users are right by number; a user may be in both shards."""
    words = [*federations.WORLD, *federations.data()]
    for name in ("one", "two"):
        shard.cut(hydra_compose.settings(words)[0], 2, tmp_path / name, federations.WORLD)
    places = [tmp_path / "one" / "node-0", tmp_path / "one" / "node-1", tmp_path / "two" / "node-1"]
    first, second, foreign = (node.load(node.settings_of(place, [])) for place in places)

    def hosts(*nodes):
        grid = InProcessGrid(small_apps.by_part(*nodes), 2)
        layout = first.model.layout.digest
        cut = shards.read(str(tmp_path / "one" / "server")).cut
        call = RollCall(2, federations.USERS, layout, 1.0, population=cut)
        return call.hosts(grid)

    assert len(hosts(first, second)) == 2
    with pytest.raises(RollCallError, match="a user may be on two nodes"):
        hosts(first, foreign)


class Ended(Exception):
    pass


def test_a_supernode_that_does_not_answer_is_told_once_and_waited_for(caplog):
    events = iter(
        [httpx.ConnectError("x"), httpx.ConnectError("x"), True, False, ValueError(MARKER)]
    )
    waits = []

    class Tasks:
        def answer_next(self, answer):
            event = next(events, None)
            if isinstance(event, Exception):
                raise event
            return event

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 6:
            raise Ended

    with caplog.at_level(logging.WARNING, "userdp"), pytest.raises(Ended):
        node.serve(Tasks(), None, wait)
    away, idle = node._PATIENCE, node._PAUSE
    assert waits == [away, away, 0.0, idle, away, idle]
    assert [record.message.count("ConnectError") for record in caplog.records] == [1, 0]
    assert MARKER not in caplog.text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "give shard=FOLDER"),
        (["shard=x", "supernode=there:80"], "node: certificate is missing"),
        (["shard=x", "supernode=there:80", "--insecure"], "is not on this machine"),
        (["shard=x", "supernode=127.0.0.1:80", "insecure=true"], "no shard is there"),
        (["shard=x", "supernode=there", "--insecure"], "should be host:port"),
        (["--shard", "x", "--colour", "y"], "--colour: no such option"),
    ],
)
def test_wrong_options_are_told_in_one_line(words, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["node", *words]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1
