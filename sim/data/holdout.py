"""Decides which users or records are held out for evaluation, from one user alone.

Each decision is a public hash of the seed, the user's id and, for records, the record's position
among that user's records: adding or removing a user changes no other user's side.
"""

from __future__ import annotations

import hashlib


def user_held_out(seed: int, user: str, fraction: float) -> bool:
    """Whether all records of the user are held out; true for a share ``fraction`` of all ids."""
    return _uniform(seed, "held-out user", user) < fraction


def record_held_out(seed: int, user: str, position: int, fraction: float) -> bool:
    """Whether the user's record number ``position``, from 0, is held out.

    The first record never is, so that every user trains; of the others a share ``fraction`` is.
    """
    return position > 0 and _uniform(seed, "held-out record", user, position) < fraction


def _uniform(*keys: int | str) -> float:
    """A number in [0, 1) that is a function of the keys."""
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53
