"""One population on its way to disk: records of many users, in any order, written as they come.

What stays in memory is a number and a name for each user, and a batch; never something a record.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from userdp.sim.data import population

_CHUNK = 1 << 20  # records grouped by user at a time


class Shelf:
    """Grows the arrays of `userdp.sim.data.population.Population` in a new folder; ``close`` completes them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._tokens = _Column(folder / "tokens.npy", "<i4")
        self._offsets = _Column(folder / "record_offsets.npy", "<i8")
        self._owners = _Column(folder / "owners.npy", "<i8")  # (records,) slot of the user
        self._slots: dict[str, int] = {}
        self._offsets.extend(np.zeros(1))

    def extend(self, users: Sequence[str], records: Sequence[Sequence[int]]) -> None:
        """Add one record of each of the users, who may repeat."""
        slots = self._slots
        owners = [slots.setdefault(user, len(slots)) for user in users]
        lengths = np.fromiter(map(len, records), np.int64, len(records))
        ends = self._tokens.length + np.cumsum(lengths)
        joined = itertools.chain.from_iterable(records)
        self._tokens.extend(np.fromiter(joined, np.int32, int(lengths.sum())))
        self._offsets.extend(ends)
        self._owners.extend(np.array(owners, np.int64))

    def close(self) -> None:
        """Write what was in memory, and the users' records beside one another."""
        for column in (self._tokens, self._offsets, self._owners):
            column.close()
        owners = np.load(self._folder / "owners.npy", mmap_mode="r")
        offsets = population.offsets(_counts(owners, len(self._slots)))
        grouped = np.lib.format.open_memmap(
            self._folder / "user_records.npy", "w+", np.int64, owners.shape
        )
        _group(owners, offsets, grouped)
        grouped.flush()
        (self._folder / "owners.npy").unlink()
        np.save(self._folder / "user_offsets.npy", offsets)
        keys = map(population.user_key, self._slots)
        np.save(self._folder / "user_keys.npy", np.fromiter(keys, np.uint64, len(self._slots)))


class _Column:
    """A one-dimensional ``.npy`` file that grows at its end."""

    def __init__(self, path: Path, dtype: str) -> None:
        self.length, self._dtype = 0, dtype
        self._file: BinaryIO = path.open("wb")
        self._write_header()

    def extend(self, values: np.ndarray) -> None:
        self._file.write(values.astype(self._dtype, copy=False).tobytes())
        self.length += len(values)

    def close(self) -> None:
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        """NumPy pads the header for growth, so it can be rewritten in place."""
        np.lib.format.write_array_header_1_0(
            self._file, {"descr": self._dtype, "fortran_order": False, "shape": (self.length,)}
        )


def _counts(owners: np.ndarray, users: int) -> np.ndarray:
    """(users,) int64: records of each."""
    total = np.zeros(users, np.int64)
    for start in range(0, len(owners), _CHUNK):
        total += np.bincount(owners[start : start + _CHUNK], minlength=users)
    return total


def _group(owners: np.ndarray, offsets: np.ndarray, grouped: np.ndarray) -> None:
    """Fill ``grouped`` (records,) with the records of the first user, of the second, and so on.

    A user's records keep their order: a counting sort, by chunks.
    """
    places = offsets[:-1].copy()  # (users,) where the next record of each user goes
    for start in range(0, len(owners), _CHUNK):
        part = owners[start : start + _CHUNK]
        order = np.argsort(part, kind="stable")
        present, first, counts = np.unique(part[order], return_index=True, return_counts=True)
        rank = np.arange(len(part)) - np.repeat(first, counts)
        grouped[np.repeat(places[present], counts) + rank] = start + order
        places[present] += counts
