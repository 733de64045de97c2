"""The worker of a SuperNode beside a stand-in: late messages, dead tasks, failed pushes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common.constant import SubStatus
from flwr.common.serde import context_to_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedResponse, PullObjectResponse
from flwr.proto.runtime_pb2 import (
    PullAppMessagesResponse,
    PullTaskInputResponse,
)
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.task_identity import TaskIdentity

from userdp.sim.runtime import flower_node
from userdp.sim.runtime.flower_node import SupersededError, _Task


class SuperNode:
    """Stands for the runtime interface of a SuperNode with one message."""

    def __init__(self):
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 2, 3
        content = RecordDict({"x": ConfigRecord({"n": 5})})
        message = Message(content, 3, "train", group_id="1")
        message.metadata.__dict__["_message_id"] = message.object_id
        self.tree = get_object_tree(message)
        objects = get_all_nested_objects(message)
        self.objects = {name: one.deflate() for name, one in objects.items()}
        self.late, self.missing, self.ended = 0, False, []

    def PullTaskInput(self, request):
        context = context_to_proto(Context(2, 3, {}, RecordDict(), {}))
        return PullTaskInputResponse(context=context, task_id=1)

    def PullMessages(self, request):
        if self.late > 0:
            self.late -= 1
            return PullAppMessagesResponse()
        answer = PullAppMessagesResponse(message_object_trees=[self.tree])
        answer.messages_list.add()
        return answer

    def PullObject(self, request):
        if self.missing:
            return PullObjectResponse(object_found=True, object_available=False)
        content = self.objects[request.object_id]
        return PullObjectResponse(object_found=True, object_available=True, object_content=content)

    def ConfirmMessageReceived(self, request):
        return ConfirmMessageReceivedResponse()

    def PushTaskOutput(self, request):
        self.ended.append(request.sub_status)


@pytest.fixture
def node(monkeypatch):
    monkeypatch.setattr(flower_node, "_SHORT", 0.001)
    monkeypatch.setattr(flower_node, "_LONG", 0.002)
    return SuperNode()


@pytest.fixture
def pushed(monkeypatch):
    replies = []
    monkeypatch.setattr(flower_node, "push_message", lambda client, reply, _: replies.append(reply))
    return replies


def never():
    return False


def test_a_message_is_answered_once_and_its_task_is_complete(node, pushed):
    _Task(node, never).answer(lambda message, _: message.content["x"]["n"])
    assert (pushed, node.ended) == ([5], [SubStatus.COMPLETED])


def test_a_task_that_shows_before_its_message_waits_for_it(node, pushed):
    node.late = 3
    _Task(node, never).answer(lambda message, _: message.content["x"]["n"])
    assert (pushed, node.ended) == ([5], [SubStatus.COMPLETED])


def test_a_task_without_a_message_is_given_up(node, pushed, monkeypatch):
    monkeypatch.setattr(flower_node, "_MESSAGE_COMES", 0.02)
    node.late = 10**6
    with pytest.raises(TimeoutError):
        _Task(node, never).answer(lambda *_: 1)
    assert (pushed, node.ended) == ([], [])  # the SuperNode makes the error reply


def test_a_dead_task_is_left_for_the_next_one_and_ended(node, pushed):
    """Were it not ended, its error reply would pass for that to the next message."""
    node.missing, asked = True, []
    with pytest.raises(SupersededError):
        _Task(node, lambda: len(asked) > 2 or asked.append(1)).answer(lambda *_: 1)
    assert (pushed, node.ended) == ([], [SubStatus.FAILED])


def test_a_reply_that_cannot_be_pushed_ends_its_task(node, monkeypatch):
    def refuses(*_):
        raise ValueError("the store is full")

    monkeypatch.setattr(flower_node, "push_message", refuses)
    with pytest.raises(ValueError, match="store is full"):
        _Task(node, never).answer(lambda *_: 1)
    assert node.ended == [SubStatus.FAILED]


def test_a_task_that_shows_meanwhile_is_the_next(monkeypatch):
    given = iter(["a", "", "b", "c"])
    client = SimpleNamespace(AcquireTask=lambda _: SimpleNamespace(token=next(given)))
    monkeypatch.setattr(flower_node.flower_api, "client_of", lambda *_: client)
    tasks = flower_node.NodeTasks(flower_node.Endpoint("127.0.0.1:1", None))
    assert tasks._comes()
    assert tasks._comes()  # it is not asked for another before this one is taken
    assert tasks._next == ["a"]
    tasks._next.clear()
    assert not tasks._comes()
    assert tasks._comes()
    assert tasks._next == ["b"]
