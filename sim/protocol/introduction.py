"""What a node says of itself before the first round: which part of the users it hosts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Introduction:
    """A node's place in the federation.

    ``population`` may follow from records: it is compared, and never logged or published.

    The user at position p of the N declared ones is hosted by the node of partition p modulo
    ``partitions``.
    """

    partition: int  # 0 to partitions - 1
    partitions: int  # number of nodes
    layout: str  # `Layout.digest` of the node's adapter
    population: str = ""  # id of the population whose users it hosts a part of: one for all nodes
    roster: str = ""  # digest of the keys under which it masks its sums; empty: it masks none


def positions(users: int, partition: int, partitions: int) -> int:
    """How many of the declared positions 0 to ``users`` - 1 a node hosts.

    >>> [positions(10, partition, 4) for partition in range(4)]
    [3, 3, 2, 2]
    """
    return len(range(partition, users, partitions))
