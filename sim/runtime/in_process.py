"""A Flower Grid inside this process: a message to a node is a call of the ClientApp.

Replies are yielded one by one in the order of the messages, so that a strategy which adds them up
holds one at a time. A node that raises an error replies with Flower's error message, without the
text of the error, which may quote data.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Iterable, Iterator

from flwr.app import Context, Error, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from userdp.sim.common.errors import ConfigurationError, NodeError, located
from userdp.sim.runtime import registry
from userdp.sim.runtime.registry import Nodes

_LOG = logging.getLogger("userdp")

CLIENT_APP_RAISED = int(ErrorCode.CLIENT_APP_RAISED_EXCEPTION)
_SERVER = 1


@registry.refusing(lambda asked: registry.check_options("in_process", asked))
@contextlib.contextmanager
def start(nodes: Nodes) -> Iterator[Grid]:
    """The runtime ``in_process``: all nodes are served one after another in this process."""
    yield InProcessGrid(nodes.app, nodes.count)


class InProcessGrid(Grid):
    """Delivers messages to ``nodes`` nodes, numbered from 2, all served by one ClientApp.

    Raises:
        ValueError: there is no node.
    """

    def __init__(self, app: ClientApp, nodes: int) -> None:
        if nodes < 1:
            raise ValueError(f"An in-process grid needs a node or more, got {nodes=}.")
        self._app = app
        self._contexts = {
            node: Context(0, node, self._place(node - 2, nodes), RecordDict(), {})
            for node in range(2, nodes + 2)
        }
        self._replies: dict[str, Message] = {}
        # All nodes share one model: where a time limit has left a node behind, still at work in its
        # own thread, the next one waits for it.
        self._busy = threading.Lock()
        # Flower's Message takes its sender from this class-level identity (internal: flwr is
        # pinned).
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, 0, _SERVER

    @staticmethod
    def _place(partition: int, partitions: int) -> UserConfig:
        """What Flower's own runtimes tell a node of its place."""
        return {"partition-id": partition, "num-partitions": partitions}

    def get_node_ids(self) -> list[int]:
        """The numbers of all nodes, ascending."""
        return list(self._contexts)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """The replies in the order of the messages; each is computed when it is iterated over."""
        return (self._deliver(message) for message in messages)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Deliver all messages and store the replies; the ids by which to pull them."""
        replies = [self._deliver(message) for message in messages]
        self._replies.update({reply.metadata.reply_to_message_id: reply for reply in replies})
        return [reply.metadata.reply_to_message_id for reply in replies]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The stored replies to these messages, each given once."""
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def create_message(self, *args: object, **kwargs: object) -> Message:
        """A message, as Flower's constructor makes it."""
        return Message(*args, **kwargs)  # type: ignore[call-overload, no-any-return]

    def set_run(self, run: Run) -> None:
        """Refused.

        Raises:
            ValueError: always.
        """
        raise ValueError("An in-process grid serves one run; it cannot be set.")

    @property
    def run(self) -> Run:
        """An empty run: Flower's record of runs is not used in one process."""
        return Run.create_empty(0)

    def _deliver(self, message: Message) -> Message:
        message.metadata.__dict__["_message_id"] = str(uuid.uuid4())
        context = self._contexts[message.metadata.dst_node_id]
        try:
            with self._busy:
                return self._app(message, context)
        except Exception as error:
            ours = isinstance(error, NodeError | ConfigurationError)  # such a text quotes no record
            _LOG.error("A node failed: %s.", error if ours else located(error))
            reason = str(error) if ours else type(error).__name__
            return Message(Error(CLIENT_APP_RAISED, reason), reply_to=message)
