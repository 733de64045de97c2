"""Gives each record a side: about a tenth of each user's records are test, never a user's only one.

The docs' results hold out whole users and do not read this side; a run may, by
``data.split=column data.split_column=split``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence

_SHARE = 0.1


def with_split(rows: Sequence[dict[str, str]]) -> Iterator[dict[str, str]]:
    """The rows, each with its ``split``, which follows from user and position alone."""
    counts = Counter(row["user_id"] for row in rows)
    seen: Counter[str] = Counter()
    for row in rows:
        user = row["user_id"]
        test = counts[user] > 1 and _drawn(user, seen[user], counts[user])
        seen[user] += 1
        yield {**row, "split": "test" if test else "train"}


def _drawn(user: str, position: int, count: int) -> bool:
    """Whether a record is test; of two or more records one at least is not."""
    drawn = [_uniform(user, place) < _SHARE for place in range(count)]
    return drawn[position] and not (all(drawn) and position == 0)


def _uniform(user: str, position: int) -> float:
    content = f"{user} {position}".encode()
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") / 2**64
