"""Federations of tiny users whose nodes mask their sums."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app import Message

from helpers import tiny
from userdp.clients import node_keys
from userdp.clients.app import Host
from userdp.clients.masked_sums import MaskedSums
from userdp.server.mechanisms.base import Mechanism
from userdp.sim.data.population import Population
from userdp.sim.protocol.introduction import Introduction


def keys(folder: Path, nodes: int) -> MaskedSums:
    """What masks the sums of all nodes, with fresh keys in ``folder``."""
    node_keys.make(folder, nodes)
    return MaskedSums.of(folder)


def place(partition: int, partitions: int) -> Introduction:
    return Introduction(partition=partition, partitions=partitions, layout="")


def training(masked: MaskedSums, nodes: int) -> Callable[[Host, Message], Message]:
    """What a node does with a train message when it masks its sum."""

    def train(host: Host, message: Message) -> Message:
        where = place(message.metadata.dst_node_id - 2, nodes)
        return dataclasses.replace(host, masked_sums=masked).train(message, where)

    return train


def federation(
    folder: Path,
    mechanism: Mechanism,
    population: Population,
    masked: MaskedSums,
    *,
    nodes: int,
    train: Callable[[Host, Message], Message] | None = None,
    **options: Any,
) -> tiny.Federation:
    """As `tiny.federation`, with secure sums.

    Args:
        train: what a node does with a message, instead of the honest answer.
    """
    honest = train or training(masked, nodes)
    run = tiny.federation(folder, mechanism, population, nodes=nodes, train=honest, **options)
    run.strategy.secure_sum = True
    return run
