"""Streams a population to disk: records of many users, in any order, in bounded memory.

Memory holds an id and a number for each user and one batch of records; nothing grows with the
number of records.
"""

from __future__ import annotations

import itertools
import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from userdp.sim.common import durable_file
from userdp.sim.data import population

_CHUNK = 1 << 20  # records that are grouped by user at a time


class PopulationWriter:
    """Writes the arrays of a `Population` into a new folder; ``close`` completes them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._tokens = _Column(folder / "tokens.npy", "<i4")
        self._offsets = _Column(folder / "record_offsets.npy", "<i8")
        self._owners = _Column(folder / "owners.npy", "<i8")  # (records,) slot of the user
        self._slots: dict[str, int] = {}
        self._offsets.extend(np.zeros(1))

    def extend(self, users: Sequence[str], records: Sequence[Sequence[int]]) -> None:
        """Append one record for each entry of ``users``; a user may occur many times.

        Args:
            records: token ids of each record, signed as in `userdp.sim.data.masking`; a long
                one as an array of 32 bits, ``array("i")``.
        """
        slots = self._slots
        owners = [slots.setdefault(user, len(slots)) for user in users]
        lengths = np.fromiter(map(len, records), np.int64, len(records))
        ends = self._tokens.length + np.cumsum(lengths)
        for long, some in itertools.groupby(records, lambda record: isinstance(record, array)):
            if long:  # no copy: these records may be of any length
                for record in some:
                    self._tokens.extend(np.asarray(record, np.int32))
            else:
                tokens = itertools.chain.from_iterable(some)
                self._tokens.extend(np.fromiter(tokens, np.int32))
        self._offsets.extend(ends)
        self._owners.extend(np.array(owners, np.int64))

    def close(self) -> None:
        """Complete the files: headers, and the records' numbers grouped by user."""
        for column in (self._tokens, self._offsets, self._owners):
            column.close()
        owners = np.load(self._folder / "owners.npy", mmap_mode="r")
        offsets = population.offsets(_counts(owners, len(self._slots)))
        grouped = _mapped(self._folder / "user_records.npy", owners.shape)
        _group(owners, offsets, grouped)
        del grouped  # its pages belong to the file; `userdp.sim.common.cache` syncs that
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
        """Append ``values`` (n,), cast to the array's dtype."""
        self._file.write(np.ascontiguousarray(values, self._dtype).data)
        self.length += len(values)

    def close(self) -> None:
        """Write the final length into the header, and close the file."""
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        """Write the header for the present length; NumPy pads it, so its size never changes."""
        np.lib.format.write_array_header_1_0(
            self._file, {"descr": self._dtype, "fortran_order": False, "shape": (self.length,)}
        )


def _mapped(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A new int64 array on disk, whose space is taken at once.

    A full disk would otherwise show when a page is written, by a signal that ends the process.

    Raises:
        OSError: the disk has no space for it.
    """
    array = np.lib.format.open_memmap(path, "w+", np.int64, shape)
    if hasattr(os, "posix_fallocate"):  # not on every system
        with durable_file.naming(path), path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _counts(owners: np.ndarray, users: int) -> np.ndarray:
    """(users,) int64: records of each user; ``owners`` is (records,) int64."""
    total = np.zeros(users, np.int64)
    for start in range(0, len(owners), _CHUNK):
        total += np.bincount(owners[start : start + _CHUNK], minlength=users)
    return total


def _group(owners: np.ndarray, offsets: np.ndarray, grouped: np.ndarray) -> None:
    """Counting sort of the record numbers by user, a chunk at a time; keeps a user's order.

    Args:
        owners: (records,) int64, slot of each record's user.
        offsets: (users + 1,) int64, where each user's records start in ``grouped``.
        grouped: (records,) int64, filled.
    """
    places = offsets[:-1].copy()  # (users,) int64, where the next record of each user goes
    for start in range(0, len(owners), _CHUNK):
        chunk = owners[start : start + _CHUNK]
        order = np.argsort(chunk, kind="stable")
        present, first, counts = np.unique(chunk[order], return_index=True, return_counts=True)
        rank = np.arange(len(chunk)) - np.repeat(first, counts)
        grouped[np.repeat(places[present], counts) + rank] = start + order
        places[present] += counts
