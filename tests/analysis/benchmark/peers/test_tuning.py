"""The search for the fastest batch size."""

from __future__ import annotations

import pytest

from userdp.analysis.benchmark.peers import tuning


def search(rates: dict[int, float], fits=lambda size: True) -> dict[int, float]:
    return tuning.best(iter(rates), rates.__getitem__, fits)


def test_two_slow_sizes_in_a_row_end_the_search():
    assert list(search({1: 5.0, 2: 10.0, 4: 7.0, 8: 9.0, 16: 7.0, 32: 6.0, 64: 99.0})) == [
        *(1, 2, 4, 8, 16, 32)
    ]


def test_the_search_ends_where_memory_ends():
    def rate(size: int) -> float:
        if size > 2:
            raise RuntimeError("CUDA out of memory")
        return float(size)

    assert tuning.best(iter((1, 2, 4)), rate, lambda size: True) == {1: 1.0, 2: 2.0}
    assert list(search({1: 1.0, 2: 2.0}, fits=lambda size: size < 2)) == [1]
    with pytest.raises(RuntimeError, match="memory"):
        tuning.best(iter((4,)), rate, lambda size: True)
