"""Checks shards by reading them back: each user on one node, with all records in their order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data.sources.shard import RECORDS

_Counted = dict[str, tuple[int, int]]  # user -> number of records, and a hash of all in order


@dataclass
class Tally:
    """Counts records by part and user, in some bytes for each user.

    Args:
        parts: part -> its users; None is the server's.
    """

    parts: dict[int | None, _Counted] = field(default_factory=dict)

    def add(self, part: int | None, row: Mapping[str, Any]) -> None:
        """Count one record of a part."""
        users = self.parts.setdefault(part, {})
        number, before = users.get(row["user"], (0, 0))
        text = json.dumps([before, sorted(row.items())]).encode()
        digest = hashlib.blake2b(text, digest_size=8).digest()
        users[row["user"]] = (number + 1, int.from_bytes(digest, "little"))


def check(folder: Path, places: Sequence[Path], written: Tally) -> None:
    """Check that the files hold every record that was read, and each user on one node alone.

    Args:
        folder: of all shards, for the message.
        places: folders of the nodes in order, and last the server's.
        written: counted while they were written.

    Raises:
        ConfigurationError: they do not.
    """
    found = Tally()
    for number, place in enumerate(places):
        part = None if number == len(places) - 1 else number
        with (place / RECORDS).open("rb") as lines:
            for line in lines:
                found.add(part, json.loads(line))
    hosts: dict[str, int] = {}
    for part, users in found.parts.items():
        if part is not None and any(hosts.setdefault(user, part) != part for user in users):
            raise ConfigurationError(f"shard: output={folder}: a user is on two nodes.")
    if found.parts != written.parts:
        raise ConfigurationError(
            f"shard: output={folder}: what is there is not what was written; is the disk full, or "
            "does another process write there?"
        )
