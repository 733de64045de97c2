"""An in-process Flower Grid: nodes are numbers, a message is a function call, replies are a stream.

Replies are yielded one by one in the order of the messages, so a strategy that folds them holds one
at a time. A node that raises answers with Flower's error reply, without the text of the error: it
may quote data.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Iterable, Iterator

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from userdp.sim.common.errors import located

_LOG = logging.getLogger("userdp")

CLIENT_APP_RAISED = 3  # flwr's ErrorCode.CLIENT_APP_RAISED_EXCEPTION
_SERVER = 1


@contextlib.contextmanager
def start(app: ClientApp, nodes: int) -> Iterator[Grid]:
    """The runtime ``in_process``: nodes are served by function calls in this process."""
    yield InProcessGrid(app, nodes)


class InProcessGrid(Grid):
    """Delivers messages to ``nodes`` nodes, numbered from 2, all served by one ClientApp."""

    def __init__(self, app: ClientApp, nodes: int) -> None:
        if nodes < 1:
            raise ValueError(f"Expected {nodes=} >= 1.")
        self._app = app
        self._contexts = {
            node: Context(0, node, {}, RecordDict(), {}) for node in range(2, nodes + 2)
        }
        self._replies: dict[str, Message] = {}
        # Flower's Message takes its sender from this class-level identity (internal: flwr is
        # pinned).
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, 0, _SERVER

    def get_node_ids(self) -> list[int]:
        return list(self._contexts)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Run each message on its node when its reply is asked for."""
        return (self._deliver(message) for message in messages)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        replies = [self._deliver(message) for message in messages]
        self._replies.update({reply.metadata.reply_to_message_id: reply for reply in replies})
        return [reply.metadata.reply_to_message_id for reply in replies]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def create_message(self, *args: object, **kwargs: object) -> Message:
        return Message(*args, **kwargs)  # type: ignore[call-overload, no-any-return]

    def set_run(self, run: Run) -> None:
        raise ValueError("An in-process grid serves one run, its own.")

    @property
    def run(self) -> Run:
        return Run.create_empty(0)

    def _deliver(self, message: Message) -> Message:
        message.metadata.__dict__["_message_id"] = str(uuid.uuid4())
        context = self._contexts[message.metadata.dst_node_id]
        try:
            return self._app(message, context)
        except Exception as error:
            _LOG.error("A node failed: %s.", located(error))
            return Message(Error(CLIENT_APP_RAISED, type(error).__name__), reply_to=message)
