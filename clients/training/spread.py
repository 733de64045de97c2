"""Spreads items over workers with a thread each; the results come in the order of the items.

The next item goes to whichever worker asks first, so a fast one takes more of them. Whatever is
computed from the results does not depend on timing, as long as all workers give equal results.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Generic, TypeAlias, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# From the items that it takes to one result for each, in their order; runs in a thread of its own.
Worker: TypeAlias = Callable[[Iterator[_Item]], Generator[_Result, None, None]]

_AHEAD = 4  # results a worker that may wait for an earlier one: bounds the memory
THREAD = "userdp device"  # name of every thread


def in_order(
    items: Iterable[_Item], workers: Sequence[Worker[_Item, _Result]]
) -> Generator[_Result, None, None]:
    """The results of all items, in their order.

    An error of a worker, or of ``items``, ends the other workers after their present item and is
    raised here, the first one if there are several. No thread outlives this generator.

    Args:
        items: are fetched by the workers' threads, by one at a time.
        workers: one or more.
    """
    shared = _Shared[_Item, _Result](items, _AHEAD * len(workers))
    threads = [
        threading.Thread(target=shared.serve, args=(worker,), name=THREAD, daemon=True)
        for worker in workers
    ]
    shared.running = len(threads)
    for thread in threads:
        thread.start()
    try:
        yield from shared.results()
    finally:
        shared.close()
        for thread in threads:
            thread.join()


class _Shared(Generic[_Item, _Result]):
    """What the threads share: the items that are left, and the results that are there.

    Args:
        most: results that may wait for an earlier one. A worker waits with a result beyond, and
            never for an item: a worker that failed may still have to end a thread that asks for
            one.
    """

    def __init__(self, items: Iterable[_Item], most: int) -> None:
        self._items, self._most = iter(items), most
        self._source = threading.Lock()  # held while an item is made, which may take long
        self._changed = threading.Condition()  # of all that follows
        self._taken = self._returned = 0
        self._done: dict[int, _Result] = {}  # by the item's number, until they are returned
        self._errors: list[BaseException] = []
        self._closed = False
        self.running = 0  # threads

    def serve(self, work: Worker[_Item, _Result]) -> None:
        """Let a worker take items until there are none; the body of its thread."""
        numbers: deque[int] = deque()
        try:
            with contextlib.closing(work(self._taken_items(numbers))) as results:
                for result in results:
                    self._deliver(numbers.popleft(), result)
        except BaseException as error:  # of any type: it is raised in the caller's thread
            with self._changed:
                self._errors.append(error)
                self._closed = True
        finally:
            with self._changed:
                self.running -= 1
                self._changed.notify_all()

    def results(self) -> Iterator[_Result]:
        """The results in the order of the items, each as soon as it and all before it are there."""
        while True:
            with self._changed:
                self._changed.wait_for(self._has_news)
                if self._errors:
                    raise self._errors[0]
                if self._returned not in self._done:
                    return
                result = self._done.pop(self._returned)
                self._returned += 1
                self._changed.notify_all()
            yield result
            del result

    def close(self) -> None:
        """Hand out no other item."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _has_news(self) -> bool:
        return bool(self._errors) or self._returned in self._done or not self.running

    def _taken_items(self, numbers: deque[int]) -> Iterator[_Item]:
        """The items for one worker; their numbers are put behind ``numbers``."""
        while True:
            with self._source:
                if self._closed:
                    return
                try:
                    item = next(self._items)
                except StopIteration:
                    return
                numbers.append(self._taken)
                self._taken += 1
            yield item
            del item

    def _deliver(self, number: int, result: _Result) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or number < self._returned + self._most)
            self._done[number] = result
            self._changed.notify_all()
