"""The runtime ``superlink``: nodes are SuperNodes of a Flower SuperLink, with their own records.

The process of the run is the run's ServerApp (`userdp.sim.runtime.flower_api`): ledger, console and
resume are those of every runtime. `docs/superlink.md` describes a deployment.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import time
from collections.abc import Iterable, Iterator, Mapping

from flwr.app import Message
from flwr.serverapp import Grid

from userdp.server.strategy import NodeFailedError
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.runtime import flower_api, link_options
from userdp.sim.runtime.flower_api import Endpoint, LinkGrid
from userdp.sim.runtime.registry import Asked, Deployment, Nodes

_PAUSE = 0.25  # seconds between two looks for replies
_LOOK = 3.0  # seconds between two looks at the nodes
_RETURN = (
    30.0  # seconds in which a node that is not there may come back, before it is sent anything
)
_AT_ONCE = 8  # replies that are fetched, and held in memory, at a time
# Seconds for which a call to the SuperLink is tried where nobody answers.
_PATIENCE = 15.0
_BUNDLE = """
[project]
name = "userdp"
version = "{version}"
description = "A run of userdp: the code is what each node has installed"
license = {{text = "Apache-2.0"}}

[tool.flwr.app]
publisher = "userdp"

[tool.flwr.app.components]
serverapp = "userdp.sim.flower_app:server_app"
clientapp = "userdp.sim.flower_app:client_app"

[tool.flwr.app.config]
served-by = "userdp node"
"""


def app_bundle() -> bytes:
    """What the nodes get of a run before its messages: the name of the app, and no setting."""
    return flower_api.bundle(_BUNDLE.format(version=importlib.metadata.version("userdp")))


def check(asked: Asked) -> None:
    """Check the options, and that a SuperLink answers where they say, and takes the secret.

    Raises:
        ConfigurationError: they are wrong, or it does not answer or is not the one expected.
    """
    endpoint = Endpoint(**link_options.read(asked.options))
    try:
        flower_api.show_secret(endpoint, seconds=_PATIENCE)
    except flower_api.FAILED as error:
        raise ConfigurationError(
            f"runtime.options: the SuperLink at {endpoint.address}: {flower_api.refusal(error)}."
        ) from None


@contextlib.contextmanager
def start(nodes: Nodes) -> Iterator[Grid]:
    """A run of the SuperLink, which ends with the block and is stopped where that fails.

    Raises:
        NodeFailedError: it does not begin; no round is spent.
    """
    endpoint = Endpoint(**link_options.read(nodes.options))
    with contextlib.ExitStack() as stack:
        try:
            begun = flower_api.run(endpoint, app_bundle(), SuperLinkGrid, _PATIENCE)
            grid = stack.enter_context(begun)
        except (*flower_api.FAILED, TimeoutError) as error:
            raise NodeFailedError(
                f"The SuperLink at {endpoint.address}: {flower_api.refusal(error)}; no round was "
                "spent."
            ) from None
        yield grid


RUNTIME = Deployment(start=start, check=check)


class SuperLinkGrid(LinkGrid):
    """Carries one message to each node, and yields the replies as they come.

    A node that is started again has lost the message that it was working on. Such a message gets an
    error reply, as one to a node that is not there does.
    """

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """The replies in the order in which they come.

        Args:
            messages: to the nodes; each is sent by itself.
            timeout: seconds after which the rest is given up; None: no limit.
        """
        waiting: dict[str, Message] = {}
        made = list(messages)
        since = self._awaited({message.metadata.dst_node_id for message in made})
        for message in made:
            if name := next(iter(self.push_messages([message])), None):
                waiting[name] = message
            else:  # the SuperLink does not know the node
                yield _not_there(message)
        end = None if timeout is None else time.monotonic() + timeout
        look = time.monotonic() + _LOOK
        while waiting and (end is None or time.monotonic() < end):
            yield from self._arrived(waiting)
            if waiting and time.monotonic() > look:
                look = time.monotonic() + _LOOK
                yield from self._lost(waiting, since)
            if waiting:
                time.sleep(_PAUSE)

    def _awaited(self, nodes: set[int]) -> dict[int, str]:
        """When each node came, once these are there, or have been waited for.

        A message to a node that is not there fails at once, so without this, one that is started
        again would fail twice before it is back.
        """
        end = time.monotonic() + _RETURN
        while not nodes <= (since := self.online_since()).keys() and time.monotonic() < end:
            time.sleep(_PAUSE)
        return since

    def _arrived(self, waiting: dict[str, Message]) -> Iterator[Message]:
        for names in flower_api.batches(waiting, _AT_ONCE):
            for reply in self.pull_messages(names):
                if waiting.pop(reply.metadata.reply_to_message_id, None) is not None:
                    yield reply

    def _lost(self, waiting: dict[str, Message], since: Mapping[int, str]) -> Iterator[Message]:
        """Error replies to messages of nodes that were started after the messages were sent."""
        now = self.online_since()
        for name, message in list(waiting.items()):
            node = message.metadata.dst_node_id
            if node in now and now[node] != since.get(node):
                del waiting[name]
                yield _not_there(message)


def _not_there(message: Message) -> Message:
    return flower_api.error_reply(message, flower_api.NODE_UNAVAILABLE, "node is not there")
