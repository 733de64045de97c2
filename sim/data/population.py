"""Users, their records and the records' tokens as flat arrays, in memory or mapped from disk.

Compressed sparse rows on two levels: ``tokens[record_offsets[r] : record_offsets[r + 1]]`` are the
tokens of record ``r`` in storage order, signed as in `userdp.sim.data.masking`, and
``user_records[user_offsets[u] : user_offsets[u + 1]]`` are the numbers of the records of the user
in slot ``u``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Population:
    """An immutable set of users; a user's slot is their position and never changes."""

    tokens: np.ndarray  # (tokens,) int32, signed as in `userdp.sim.data.masking`
    record_offsets: np.ndarray  # (records + 1,) int64, storage order
    user_records: np.ndarray  # (records held by users,) int64, grouped by user
    user_offsets: np.ndarray  # (users + 1,) int64
    user_keys: np.ndarray  # (users,) uint64, stable hash of the user's id
    perplexity: np.ndarray | None = None  # (records,) float32 in storage order; private too

    def __len__(self) -> int:
        return len(self.user_keys)

    def record_numbers(self, user: int) -> np.ndarray:
        """Numbers of the user's records in storage order, (records of the user,) int64."""
        return self.user_records[self.user_offsets[user] : self.user_offsets[user + 1]]

    def records(self, user: int) -> list[np.ndarray]:
        """The user's records, each (tokens,), in storage order."""
        numbers = self.record_numbers(user)
        starts, ends = self.record_offsets[numbers], self.record_offsets[numbers + 1]
        return [self.tokens[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]

    def perplexities(self, user: int) -> np.ndarray | None:
        """(records of the user,) float32, or None if the records have no scores."""
        return None if self.perplexity is None else self.perplexity[self.record_numbers(user)]

    def content_digest(self) -> str:
        """Hash of all arrays but the scores, 32 hexadecimal digits."""
        digest = hashlib.blake2b(digest_size=16)
        for name in _STORED:
            array = np.ascontiguousarray(getattr(self, name))
            digest.update(f"{name} {array.dtype} {len(array)} ".encode())
            digest.update(array.data)
        return digest.hexdigest()

    def emptied(self, user: int) -> Population:
        """The neighbouring population in which the user in slot ``user`` has no records."""
        start, end = self.user_offsets[user], self.user_offsets[user + 1]
        offsets = np.array(self.user_offsets)
        offsets[user + 1 :] -= end - start
        remaining = np.delete(self.user_records, np.s_[start:end])
        return replace(self, user_records=remaining, user_offsets=offsets)

    def save(self, folder: Path) -> None:
        """Write one ``.npy`` file per array into ``folder``, but not the scores."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in _STORED:
            np.save(folder / f"{name}.npy", getattr(self, name))

    @classmethod
    def load(cls, folder: Path) -> Population:
        """Map the arrays of ``folder`` from disk, read-only; pages are read when they are used.

        The maps are viewed as plain arrays, since indexing ``np.memmap`` takes far longer.
        """
        paths = {name: folder / f"{name}.npy" for name in _STORED}
        return cls(**{name: np.asarray(np.load(p, mmap_mode="r")) for name, p in paths.items()})

    @classmethod
    def of(cls, users: dict[str, Sequence[Sequence[int]]]) -> Population:
        """A small population from token lists: ``{"a": [[1, 2], [3]]}``, one user, two records."""
        records = [record for owned in users.values() for record in owned]
        lengths = [len(record) for record in records]
        return cls(
            tokens=np.array([token for record in records for token in record], np.int32),
            record_offsets=offsets(lengths),
            user_records=np.arange(len(records)),
            user_offsets=offsets([len(owned) for owned in users.values()]),
            user_keys=np.array([user_key(name) for name in users], np.uint64),
        )


_STORED = [field.name for field in fields(Population) if field.name != "perplexity"]


def offsets(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Starts of n consecutive runs of the given lengths, and their total: (n + 1,) int64."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def user_key(user_id: str) -> int:
    """Stable 64-bit hash of a user's id; names the random streams that belong to the user."""
    return int.from_bytes(hashlib.blake2b(user_id.encode(), digest_size=8).digest(), "little")
