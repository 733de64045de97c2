"""Users, their records and the records' tokens as flat arrays, in memory or mapped from disk.

The arrays are compressed sparse rows twice over:
``tokens[record_offsets[r] : record_offsets[r + 1]]``
are the tokens of record ``r`` in storage order, and
``user_records[user_offsets[u] : user_offsets[u + 1]]`` are the records of the user in slot ``u``.
Knows nothing of text, models or privacy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Population:
    """Immutable set of users; a user's slot is their position and never changes."""

    tokens: np.ndarray  # (tokens,) uint16 or uint32
    record_offsets: np.ndarray  # (records + 1,) int64, storage order
    user_records: np.ndarray  # (records held by users,) int64, grouped by user
    user_offsets: np.ndarray  # (users + 1,) int64
    user_keys: np.ndarray  # (users,) uint64, stable hash of the user's id

    def __len__(self) -> int:
        return len(self.user_keys)

    def record_numbers(self, user: int) -> np.ndarray:
        """(records of the user,) int64: which stored records are the user's."""
        return self.user_records[self.user_offsets[user] : self.user_offsets[user + 1]]

    def records(self, user: int) -> list[np.ndarray]:
        """The user's records, each (tokens,), in storage order."""
        starts, ends = self.record_offsets[:-1], self.record_offsets[1:]
        return [self.tokens[starts[r] : ends[r]] for r in self.record_numbers(user)]

    def record_counts(self) -> np.ndarray:
        """(users,) int64: records per user. Private: simulation_only."""
        return np.diff(self.user_offsets)

    def emptied(self, user: int) -> Population:
        """The neighbour without the user in slot ``user``: the slot stays, its records go."""
        start, end = self.user_offsets[user], self.user_offsets[user + 1]
        offsets = np.array(self.user_offsets)
        offsets[user + 1 :] -= end - start
        kept = np.delete(self.user_records, np.s_[start:end])
        return replace(self, user_records=kept, user_offsets=offsets)

    def save(self, folder: Path) -> None:
        """Write one ``.npy`` file per array into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name))

    @classmethod
    def load(cls, folder: Path) -> Population:
        """Map the arrays of ``folder`` from disk, read-only."""
        return cls(
            **{
                field.name: np.load(folder / f"{field.name}.npy", mmap_mode="r")
                for field in fields(cls)
            }
        )

    @classmethod
    def of(cls, users: dict[str, Sequence[Sequence[int]]]) -> Population:
        """Small population from token lists, for tests and notebooks: ``{"a": [[1, 2], [3]]}``."""
        records = [record for owned in users.values() for record in owned]
        lengths = [len(record) for record in records]
        return cls(
            tokens=np.array([token for record in records for token in record], np.uint32),
            record_offsets=offsets(lengths),
            user_records=np.arange(len(records)),
            user_offsets=offsets([len(owned) for owned in users.values()]),
            user_keys=np.array([user_key(name) for name in users], np.uint64),
        )


def offsets(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """(n + 1,) int64: where each of n runs of the given lengths starts, and the total."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def user_key(user_id: str) -> int:
    """Stable 64-bit hash of a user's id: the key of every stream that belongs to the user."""
    return int.from_bytes(hashlib.blake2b(user_id.encode(), digest_size=8).digest(), "little")
