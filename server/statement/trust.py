"""The trust model of a run, from its ledger's header: who could read what, in a statement's words.

docs/secure_sums.md explains it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Where the private keys were under which nodes masked their sums: ``secure_sum.keys`` of a header.
AT_THE_NODES, AT_THE_SERVER = "at the nodes", "at the server"
_ADVERSARY = "The adversary sees everything that is listed as released."
WITHOUT_MASKS = (
    f"Trusted server and trusted nodes: they see users' data, coins and sums before noise, and the "
    f"server sees each node's sum. {_ADVERSARY} This is a simulation in one process or on trusted "
    "machines, without secure aggregation: simulation is not a deployment."
)
_MASKED = (
    "Trusted nodes, and a server that follows the protocol: it draws the coins, saw only the sum "
    "over all {nodes} nodes before noise, and adds the noise. A single node's sum stays hidden "
    "from it as long as two or more nodes keep their keys from it and follow the protocol; a node "
    "that does not clip is not found out by its own sum. "
) + _ADVERSARY
_MASKED_ON_ONE_MACHINE = (
    "Trusted server and trusted nodes: they see users' data, coins and sums before noise. "
    f"{_ADVERSARY} The {{nodes}} nodes masked their sums, so that only the sum over all of them "
    "was read, under keys that lay on the server's machine: this shows the protocol, hides nothing "
    "from whoever reads that machine, and is no secure aggregation. A simulation is not a "
    "deployment."
)


def model(header: Mapping[str, Any]) -> str:
    """The paragraph of a statement.

    Args:
        header: of a ledger; without ``secure_sum``, as in all older ones, no sum was masked.

    Raises:
        ValueError: ``secure_sum`` is none that a run writes.
    """
    nodes, keys = _secure_sum(header)
    if not nodes:
        return WITHOUT_MASKS
    text = _MASKED if keys == AT_THE_NODES else _MASKED_ON_ONE_MACHINE
    return text.format(nodes=nodes)


def short(header: Mapping[str, Any]) -> str:
    """The same in half a line.

    Raises:
        ValueError: as `model`.
    """
    nodes, keys = _secure_sum(header)
    if not nodes:
        return "the server saw each node's sum"
    if keys == AT_THE_NODES:
        return f"the server saw only the sum over {nodes} nodes"
    return f"masked sums over {nodes} nodes, with keys at the server, which hide nothing"


def _secure_sum(header: Mapping[str, Any]) -> tuple[int, str]:
    """Number of nodes and where their keys were; no node where no sum was masked."""
    stored = header.get("secure_sum")
    if stored is None:
        return 0, ""
    if not isinstance(stored, Mapping) or set(stored) != {"nodes", "keys"}:
        raise ValueError("The ledger's secure_sum is none that a run writes.")
    nodes, keys = stored["nodes"], stored["keys"]
    if type(nodes) is not int or nodes < 2 or keys not in (AT_THE_NODES, AT_THE_SERVER):
        raise ValueError("The ledger's secure_sum is none that a run writes.")
    return nodes, keys
