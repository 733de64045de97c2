"""Results come in the order of the items whatever the timing; errors end all threads."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from userdp.clients.training import spread


def doubled(items):
    for item in items:
        yield 2 * item


def working():
    """How many threads of workers there are."""
    return sum(thread.name == spread.THREAD for thread in threading.enumerate())


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 3, 100])
def test_every_item_has_its_result_in_its_place(workers, count):
    results = list(spread.in_order(iter(range(count)), [doubled] * workers))
    assert results == [2 * item for item in range(count)]
    assert not working()


def test_a_result_waits_for_the_one_before_it_which_another_worker_is_late_with():
    second_done = threading.Event()

    def late_with_the_first(items):
        for item in items:
            if item == 0:
                assert second_done.wait(5)
            yield item
            if item == 1:  # asked for the next one: this result is delivered
                second_done.set()

    results = list(spread.in_order(range(6), [late_with_the_first] * 2))
    assert results == list(range(6))


def test_a_fast_worker_takes_more():
    taken = {"fast": 0, "slow": 0}

    def worker(name, pause):
        def work(items):
            for item in items:
                taken[name] += 1
                time.sleep(pause)
                yield item

        return work

    list(spread.in_order(range(60), [worker("fast", 0.001), worker("slow", 0.03)]))
    assert taken["fast"] > 3 * taken["slow"] > 0


def test_few_items_are_on_their_way_or_wait_for_an_earlier_one():
    """A worker that holds the first item back must not let the other's results pile up."""
    begun, held, made = threading.Event(), threading.Event(), []

    def source():
        for item in range(1000):
            made.append(item)
            yield item

    def first_held_back(items):
        for item in items:
            if item == 0:
                begun.set()
                assert held.wait(5)
            yield item

    results = spread.in_order(source(), [first_held_back] * 2)
    got = []
    reader = threading.Thread(target=lambda: got.extend(results))
    reader.start()
    assert begun.wait(5)
    before = -1
    while before != len(made):  # until the other worker has stopped
        before = len(made)
        time.sleep(0.05)
    assert before <= 9  # four for each of two workers, and one that is made
    held.set()
    reader.join()
    assert got == list(range(1000))


def test_an_error_of_one_worker_ends_all_and_is_raised():
    def failing(items):
        for item in items:
            if item == 7:
                raise LookupError("seven")
            time.sleep(0.001)
            yield item

    got = []
    with pytest.raises(LookupError, match="seven"):
        got.extend(spread.in_order(iter(range(10**9)), [failing] * 3))
    assert not working()


def test_errors_of_several_workers_are_raised_as_one():
    gate = threading.Barrier(3)

    def failing(items):
        for _ in items:
            gate.wait(5)
            raise LookupError("each")
        yield

    with pytest.raises(LookupError, match="each"):
        list(spread.in_order(range(9), [failing] * 3))
    assert not working()


def test_a_worker_that_fails_while_a_thread_of_its_own_fetches_ahead_ends():
    """As a GPU's does, which loads a block while it computes the one before it."""

    def fails_late(items):
        with ThreadPoolExecutor(max_workers=1) as pool:
            for item in items:
                if item == 0:
                    time.sleep(0.3)  # the other worker has as many results as may wait
                    pool.submit(next, items, None)
                    raise LookupError("late")
                yield item

    with pytest.raises(LookupError, match="late"):
        list(spread.in_order(iter(range(10**9)), [fails_late] * 2))
    assert not working()


def test_an_error_of_the_items_is_raised():
    def items():
        yield from range(5)
        raise OSError("a disk")

    with pytest.raises(OSError, match="a disk"):
        list(spread.in_order(items(), [doubled] * 2))
    assert not working()


def test_a_reader_that_stops_early_ends_the_threads_and_closes_the_workers():
    closed = []

    def work(items):
        try:
            yield from items
        finally:
            closed.append(threading.current_thread())

    results = spread.in_order(iter(range(10**9)), [work] * 2)
    assert next(results) == 0
    results.close()
    assert not working()
    assert len(set(closed)) == 2
    assert threading.main_thread() not in closed
