"""Search for the batch size at which a side is fastest: each power of two is tried briefly."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

_SECONDS = 0.5  # of a trial, which is at least one batch
_FLOAT_BYTES = 4
_BEHIND = 0.8  # of the best rate: two sizes in a row below it end the search


def powers(rows: int) -> Iterator[int]:
    """1, 2, 4, ... up to the first that holds all rows, at most 1024.

    >>> list(powers(5))
    [1, 2, 4, 8]
    """
    size = 1
    while size < min(2 * rows, 2048):
        yield size
        size *= 2


def rate(
    run: Callable[[list[np.ndarray]], object], rows: Sequence[np.ndarray], batch: int
) -> float:
    """Tokens a second of ``run`` over batches of rows, each (tokens,), after one untimed batch."""
    run(list(rows[:batch]))
    done, first, start = 0, 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < _SECONDS or not done:
        chosen = list(rows[first : first + batch])
        run(chosen)
        done += sum(map(len, chosen))
        first = first + batch if first + 2 * batch <= len(rows) else 0
    return done / max(spent, time.perf_counter() - start)


def best(
    sizes: Iterator[int], rate_of: Callable[[int], float], fits: Callable[[int], bool]
) -> dict[int, float]:
    """Batch size -> tokens a second, for all sizes that were tried.

    The search ends where memory ends, or where two sizes in a row are far slower than the best.

    Args:
        sizes: ascending.
        rate_of: tokens a second at a size.
        fits: whether a size may be tried.

    Raises:
        MemoryError, RuntimeError: of ``rate_of``, if even the first size does not fit in memory, or
            for a reason other than memory.
    """
    rates: dict[int, float] = {}
    behind = 0
    for size in sizes:
        if not fits(size):
            break
        try:
            rates[size] = rate_of(size)
        except (MemoryError, RuntimeError) as error:
            if "memory" not in str(error) or not rates:
                raise
            break
        behind = behind + 1 if rates[size] < _BEHIND * max(rates.values()) else 0
        if behind == 2:
            break
    return rates


def logits_fit(batch: int, length: int, vocabulary: int) -> bool:
    """Whether four copies of a batch's float32 logits fit in the free memory of the CPU.

    Args:
        batch: records.
        length: positions of each.
        vocabulary: logits of each position.
    """
    info = Path("/proc/meminfo")
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    if info.exists():
        fields = dict(line.split(":") for line in info.read_text(encoding="utf-8").splitlines())
        free = 1024 * int(fields["MemAvailable"].split()[0])
    return 4 * _FLOAT_BYTES * batch * length * vocabulary < free
