"""Writes and reads the messages to nodes and their replies; no other file names their records."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.protocol.cohort_sum import CohortSum
from userdp.sim.protocol.contract import Assignment, Contract
from userdp.sim.protocol.introduction import Introduction
from userdp.sim.protocol.layout import Layout, to_array

TRAIN, QUERY = "train", "query"
_TRAIN_RECORDS = ("adapter", "contract", "assignment")
_FOREIGN = (
    "this ClientApp is userdp's and serves userdp's PrivateStrategy alone: the message lacks {}; "
    "run the ServerApp of the same app, or `userdp run`"
)


class ForeignMessageError(ConfigurationError):
    """A message or a reply that another strategy or another ClientApp wrote."""


def introduction_request(node: int, users: int) -> Message:
    """Ask a node which part of the ``users`` declared ones it hosts."""
    content = RecordDict({"declared": ConfigRecord({"users": users})})
    return Message(content, dst_node_id=node, message_type=QUERY, group_id="0")


def check_introduction_request(message: Message) -> None:
    """Refuse a question of another strategy.

    Raises:
        ForeignMessageError: another strategy asks.
    """
    _check_ours(message, ("declared",))


def read_introduction_request(message: Message) -> int:
    """The number of declared users.

    Raises:
        ForeignMessageError: another strategy asks.
    """
    check_introduction_request(message)
    users: Any = message.content.config_records["declared"]["users"]
    return int(users)


def introduction(message: Message, found: Introduction) -> Message:
    """The reply to the request ``message``."""
    content = RecordDict({"introduction": ConfigRecord(asdict(found))})
    return Message(content, reply_to=message)


def read_introduction(reply: Message) -> Introduction:
    """What a node says of itself.

    Raises:
        ForeignMessageError: the reply is an error, or not one of userdp's ClientApp.
    """
    if reply.has_error() or "introduction" not in reply.content.config_records:
        raise ForeignMessageError("it does not answer as userdp's ClientApp")
    fields: dict[str, Any] = dict(reply.content.config_records["introduction"])
    try:
        return Introduction(**fields)
    except TypeError:
        raise ForeignMessageError("its ClientApp is of another version of userdp") from None


def train_message(
    node: int,
    adapter: ArrayRecord,
    contract: Contract,
    assignment: Assignment,
    scale: ArrayRecord | None = None,
) -> Message:
    """The request to one node for the sum of its units' clipped updates.

    Args:
        node: id of the node that hosts the units.
        adapter: the global adapter, by tensor name.
        scale: factors of the update's entries before the clip, by tensor name; None: no scaling.
    """
    content = RecordDict(
        {
            "adapter": adapter,
            "contract": ConfigRecord(asdict(contract)),
            "assignment": ConfigRecord(
                {"users": assignment.users.tolist(), "slots": assignment.slots.tolist()}
            ),
        }
    )
    if scale is not None:
        content["scale"] = scale
    return Message(content, dst_node_id=node, message_type=TRAIN, group_id=str(contract.round))


def again(message: Message) -> Message:
    """The same request, to be sent once more: a message that was sent keeps marks of its way."""
    sent = message.metadata
    return Message(
        message.content,
        dst_node_id=sent.dst_node_id,
        message_type=sent.message_type,
        group_id=sent.group_id,
    )


def check_train(message: Message) -> None:
    """Refuse a train message of another strategy.

    Raises:
        ForeignMessageError: another strategy wrote it.
    """
    _check_ours(message, _TRAIN_RECORDS)


def read_train(message: Message) -> tuple[ArrayRecord, Contract, Assignment]:
    """The adapter, the contract and the units of a train message.

    Raises:
        ForeignMessageError: another strategy wrote it.
    """
    check_train(message)
    content = message.content
    fields: dict[str, Any] = dict(content.config_records["contract"])
    record = content.config_records["assignment"]
    assignment = Assignment(*(np.array(record[key], np.int64) for key in ("users", "slots")))
    return content.array_records["adapter"], Contract(**fields), assignment


def read_scale(message: Message) -> ArrayRecord | None:
    """Factors of the updates' entries before the clip, by tensor name; None: no scaling."""
    return message.content.array_records.get("scale")


def train_reply(message: Message, layout: Layout, cohort: CohortSum) -> Message:
    """The reply to a train message: one sum over all units of the node.

    Args:
        message: the train message.
        layout: of the adapter.
        cohort: sums over the node's units; its rows are sent if the contract has ``keep_rows``.
    """
    content = RecordDict(
        {
            "clipped_sum": layout.to_arrays(cohort.total),
            "simulation_only": MetricRecord(dict(cohort.figures)),
        }
    )
    if cohort.unclipped_bits is not None:  # not a metric: it is noised and released
        content["unclipped_bits"] = ConfigRecord({"sum": cohort.unclipped_bits})
    if cohort.rows is not None:
        content["clipped_rows"] = ArrayRecord({"rows": to_array(cohort.rows)})
    return Message(content, reply_to=message)


def read_reply(message: Message, layout: Layout) -> CohortSum:
    """The sum in a node's reply.

    Raises:
        ValueError: its arrays or rows are not of this layout, or not float64.
        KeyError: a record is missing.
    """
    content = message.content
    total = layout.to_vector(content.array_records["clipped_sum"])
    if total.dtype != np.float64:  # rounded after the clip: a norm could exceed C
        raise ValueError("The sum of a reply is not float64.")
    figures: Any = content.metric_records["simulation_only"]
    bits: Any = content.config_records.get("unclipped_bits", {"sum": None})["sum"]
    return CohortSum(total, dict(figures), bits, _rows(content, layout))


def masked_reply(message: Message, vector: np.ndarray) -> Message:
    """The reply to a train message of a round with secure sums, which holds nothing else.

    Args:
        message: the train message.
        vector: (entries,) uint64, masked.
    """
    return Message(RecordDict({"masked": ArrayRecord({"sum": to_array(vector)})}), reply_to=message)


def read_masked_reply(message: Message, entries: int) -> np.ndarray:
    """The masked vector (entries,) uint64 of a node's reply.

    Raises:
        ValueError: the reply holds something else, or a vector of another length or dtype.
        KeyError: a record is missing.
    """
    content = message.content
    vector = content.array_records["masked"]["sum"].numpy()
    if vector.shape != (entries,) or vector.dtype != np.uint64 or len(content) != 1:
        raise ValueError("The reply is not one masked vector.")
    return vector


def _rows(content: RecordDict, layout: Layout) -> np.ndarray | None:
    """(units, D) float64 clipped updates, if the reply has them.

    Raises:
        ValueError: they have another dtype, or another number of columns than D.
    """
    if "clipped_rows" not in content:
        return None
    rows = content.array_records["clipped_rows"]["rows"].numpy()
    if rows.ndim != 2 or rows.shape[1] != layout.size or rows.dtype != np.float64:
        raise ValueError("The rows of a reply are not updates of this adapter.")
    return rows


def _check_ours(message: Message, names: tuple[str, ...]) -> None:
    lacking = [name for name in names if name not in message.content]
    if lacking:
        raise ForeignMessageError(_FOREIGN.format(" and ".join(lacking)))
