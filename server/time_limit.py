"""A grid that gives its nodes a limited time, and whose own failures are errors of one class.

Flower's grids take a time limit, but a grid need not keep it, and a node that never answers would
hold a run for ever. Here the limit is kept by the server: the replies are fetched in a thread, and
after the limit the caller goes on without those that did not come.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.serverapp import Grid

from userdp.sim.common.errors import ConfigurationError, located


class RuntimeFailedError(Exception):
    """The runtime raised an error while messages were on their way; its text is left out."""


class TimeLimitedGrid(Grid):
    """Another grid with a time limit on its replies.

    Args:
        grid: carries the messages; it is told the limit, and need not keep it.
        limit: seconds; None: no limit, and no thread.
    """

    def __init__(self, grid: Grid, limit: float | None) -> None:
        self._inner, self._limit = grid, limit

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """The replies that come within the limit, as they come.

        The messages are made at once, in the caller's thread: an error in making them, such as a
        spent budget, passes through.

        Args:
            messages: to the nodes.
            timeout: not used: the limit is the grid's.

        Raises:
            RuntimeFailedError: the grid raised an error; raised while the replies are read.
        """
        made = list(messages)
        if self._limit is None:
            return _guarded(self._inner, made, None)
        return _within(_guarded(self._inner, made, self._limit), self._limit)

    def get_node_ids(self) -> Iterable[int]:
        """As the grid.

        Raises:
            RuntimeFailedError: the grid raised an error.
        """
        try:
            return self._inner.get_node_ids()
        except Exception as error:
            raise RuntimeFailedError(f"the runtime failed: {located(error)}") from None

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As the grid."""
        return self._inner.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As the grid."""
        return self._inner.pull_messages(message_ids)

    def create_message(self, *args: object, **kwargs: object) -> Message:
        """As the grid."""
        return self._inner.create_message(*args, **kwargs)  # type: ignore[arg-type]

    def set_run(self, run: object) -> None:
        """As the grid."""
        self._inner.set_run(run)  # type: ignore[arg-type]

    @property
    def run(self) -> object:  # type: ignore[override]
        """As the grid."""
        return self._inner.run


def _guarded(grid: Grid, messages: list[Message], limit: float | None) -> Iterator[Message]:
    """The grid's replies; an error of the grid is named by its class and place alone."""
    try:
        yield from grid.send_and_receive(messages, timeout=limit)
    except ConfigurationError:
        raise
    except Exception as error:  # the text of another package's error may quote a record
        raise RuntimeFailedError(f"the runtime failed: {located(error)}") from None


@dataclass
class _Fetched:
    """Replies on their way from the thread that fetches them, at most one at a time."""

    waiting: queue.Queue[Message | Exception | None] = field(default_factory=lambda: queue.Queue(1))
    over: threading.Event = field(default_factory=threading.Event)

    def fetch(self, replies: Iterator[Message]) -> None:
        try:
            for reply in replies:
                if self.over.is_set():
                    return
                self.waiting.put(reply)
            self.waiting.put(None)
        except Exception as error:
            self.waiting.put(error)

    def stop(self) -> None:
        """End the thread at its next reply; it may wait for a place in the queue."""
        self.over.set()
        while not self.waiting.empty():
            self.waiting.get_nowait()


def _within(replies: Iterator[Message], limit: float) -> Iterator[Message]:
    """The replies until the limit; a thread that still waits for one is left behind."""
    fetched, end = _Fetched(), time.monotonic() + limit
    thread = threading.Thread(target=fetched.fetch, args=(replies,), daemon=True)
    thread.start()
    try:
        while True:
            item = fetched.waiting.get(timeout=max(0.0, end - time.monotonic()))
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item
    except queue.Empty:
        return
    finally:
        fetched.stop()
