"""The batch size at which a side is fastest: powers of two, each tried for a moment."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

_SECONDS = 0.5  # of a trial, at least one batch
_FLOAT = 4


def powers(rows: int) -> Iterator[int]:
    """1, 2, 4, ... up to the first that holds all rows, at most 1024."""
    size = 1
    while size < min(2 * rows, 2048):
        yield size
        size *= 2


def rate(
    run: Callable[[list[np.ndarray]], object], rows: Sequence[np.ndarray], batch: int
) -> float:
    """Tokens a second of ``run`` over batches of rows, in their order; the first is not counted."""
    run(list(rows[:batch]))
    done, place, start = 0, 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < _SECONDS or not done:
        chosen = list(rows[place : place + batch])
        run(chosen)
        done += sum(map(len, chosen))
        place = place + batch if place + 2 * batch <= len(rows) else 0
    return done / max(spent, time.perf_counter() - start)


def best(
    sizes: Iterator[int], rate_of: Callable[[int], float], fits: Callable[[int], bool]
) -> dict[int, float]:
    """Tokens a second by size, up to where memory ends or two sizes in a row are far behind."""
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
        behind = behind + 1 if rates[size] < 0.8 * max(rates.values()) else 0
        if behind == 2:
            break
    return rates


def logits_fit(batch: int, length: int, vocabulary: int) -> bool:
    """Whether four copies of a batch's float32 logits fit in the memory that is free (CPU)."""
    info = Path("/proc/meminfo")
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    if info.exists():
        fields = dict(line.split(":") for line in info.read_text().splitlines())
        free = 1024 * int(fields["MemAvailable"].split()[0])
    return 4 * _FLOAT * batch * length * vocabulary < free
