"""Answers the messages to a SuperNode from a process that stays; with `flower_api`, all internals.

A SuperNode handles one message at a time: it makes a task for it, downloads the message, and waits
for the reply. Two things that never show where each task has a process of its own, which takes
seconds to start, are seen to here:

- a task is given away before its message is stored: the message is waited for;
- where the run ends while a message is downloaded, task and message stay behind, and what the
  message consists of never comes. The SuperNode goes on, so the next task tells that this one is
  dead, and it is given up.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from flwr.app import Context, Message
from flwr.common.constant import SubStatus
from flwr.common.serde import context_from_proto
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectUnavailableError,
    pull_and_inflate_object_from_tree,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.runtime.run_clientapp import push_message

from userdp.sim.runtime import flower_api
from userdp.sim.runtime.flower_api import Endpoint

Answer = Callable[[Message, Context], Message]

_MESSAGE_COMES = 30.0  # seconds until a task's message is there
_SHORT, _LONG = 0.2, 1.0  # seconds between two questions for a part of a message, growing


class SupersededError(Exception):
    """The SuperNode has gone on to another message."""


class NodeTasks:
    """The messages to one SuperNode, which this process answers.

    Args:
        endpoint: of the SuperNode's runtime interface.
        seconds: for which a call is tried where nobody answers.
    """

    def __init__(self, endpoint: Endpoint, seconds: float = 20.0) -> None:
        self._endpoint, self._seconds = endpoint, seconds
        self._client = flower_api.client_of(RuntimeHttpClient, endpoint, flower_api.retries(0.0))
        self._next: list[str] = []  # token of a task that showed while another was worked on
        self._asking = threading.Lock()

    def answer_next(self, answer: Answer) -> bool:
        """Answer the next message; False where none waits.

        Args:
            answer: makes the reply, and raises nothing.

        Raises:
            FAILED: the SuperNode does not answer or refuses.
        """
        if not self._comes():
            return False
        client = flower_api.client_of(
            RuntimeHttpClient,
            self._endpoint,
            flower_api.retries(self._seconds),
            self._next.pop(),
        )
        try:
            with flower_api.heartbeat_of(client):
                _Task(client, self._comes).answer(answer)
        except SupersededError:
            pass
        finally:
            client.close()
        return True

    def _comes(self) -> bool:
        """Whether a task waits to be worked on; asks the SuperNode for one."""
        with self._asking:
            if not self._next:
                request = AcquireTaskRequest(supported_task_types=[str(TaskType.CLIENT_APP)])
                self._next += [
                    token for token in [self._client.AcquireTask(request).token] if token
                ]
            return bool(self._next)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


@dataclass
class _Task:
    """One message and its reply."""

    client: RuntimeHttpClient
    superseded: Callable[[], bool]
    replying: bool = field(default=False, init=False)

    def answer(self, answer: Answer) -> None:
        """Pull the message, and push its reply.

        Where this fails before a reply, the SuperNode waits for it; it makes an error reply by
        itself once it hears no heartbeat. In all other cases the task is ended, since such a reply
        would pass for that to another message.
        """
        try:
            message, context = self._pulled()
            reply = answer(message, context)
            self.replying = True
            push_message(self.client, reply, context)
        except Exception as error:
            if self.replying or isinstance(error, SupersededError):
                with contextlib.suppress(*flower_api.FAILED):
                    self._end(SubStatus.FAILED)
            raise
        self._end(SubStatus.COMPLETED)

    def _end(self, status: str) -> None:
        self.client.PushTaskOutput(PushTaskOutputRequest(sub_status=status, details=""))

    def _pulled(self) -> tuple[Message, Context]:
        """The message, and the context of its node; the app bundle is not looked at.

        Raises:
            SupersededError: parts of it never come.
            TimeoutError: the message does not come.
        """
        task = self.client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id = task.task_id
        TaskIdentity.run_id = task.run.run_id
        TaskIdentity.node_id = task.context.node_id
        context = context_from_proto(task.context)
        tree, node = self._tree(), Node(node_id=context.node_id)
        client = self.client
        pull = make_pull_object_fn_protobuf(client.PullObject, node, context.run_id)
        confirm = make_confirm_message_received_fn_protobuf(
            client.ConfirmMessageReceived, node, context.run_id
        )
        message = pull_and_inflate_object_from_tree(
            tree,
            self._unless_superseded(pull),
            confirm,
            return_type=Message,
            max_tries_per_object=None,
            initial_backoff=_SHORT,
            backoff_cap=_LONG,
        )
        message.metadata.__dict__["_message_id"] = tree.object_id
        return message, context

    def _unless_superseded(self, pull: Callable[[str], bytes]) -> Callable[[str], bytes]:
        def pulled(name: str) -> bytes:
            try:
                return pull(name)
            except ObjectUnavailableError:
                if self.superseded():
                    raise SupersededError from None
                raise

        return pulled

    def _tree(self) -> ObjectTree:
        """The names of the parts of the message."""
        end = time.monotonic() + _MESSAGE_COMES
        while time.monotonic() < end:
            answer = self.client.PullMessages(PullAppMessagesRequest())
            if answer.messages_list:
                tree: ObjectTree = answer.message_object_trees[0]
                return tree
            if self.superseded():
                raise SupersededError
            time.sleep(_SHORT)
        raise TimeoutError("A task came without its message.")
