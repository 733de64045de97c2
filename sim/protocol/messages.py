"""What a train message and its reply hold; the only file that knows record keys.

Names are those peft gives an adapter's tensors, on the wire and in the exported file; inside a node
and inside the server the adapter is one flat vector. `Layout` converts between the two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from userdp.sim.protocol.contract import Assignment, Contract

TRAIN = "train"


@dataclass(frozen=True)
class Layout:
    """Names and shapes of an adapter's tensors, in the order of the flat vector."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> Layout:
        return cls(tuple((name, tuple(shape)) for name, shape in shapes.items()))

    @property
    def size(self) -> int:
        """D, the number of adapter parameters."""
        return sum(int(np.prod(shape)) for _, shape in self.shapes)

    @property
    def digest(self) -> str:
        """Hash of names and shapes: two adapters with one digest can be added."""
        return hashlib.sha256(repr(self.shapes).encode()).hexdigest()[:16]

    def parts(self) -> Iterator[tuple[slice, tuple[int, ...]]]:
        """Where each tensor lies in the flat vector, and its shape."""
        start = 0
        for _, shape in self.shapes:
            end = start + int(np.prod(shape))
            yield slice(start, end), shape
            start = end

    def named(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """The tensors of a flat vector (D,), by name."""
        names = (name for name, _ in self.shapes)
        return {
            n: vector[part].reshape(s) for n, (part, s) in zip(names, self.parts(), strict=True)
        }

    def to_arrays(self, vector: np.ndarray) -> ArrayRecord:
        return ArrayRecord({name: _array(tensor) for name, tensor in self.named(vector).items()})

    def to_vector(self, arrays: ArrayRecord) -> np.ndarray:
        """(D,) in the dtype of the record.

        Raises:
            ValueError: if names or shapes are not this layout's.
        """
        tensors = {name: array.numpy() for name, array in arrays.items()}
        if {name: t.shape for name, t in tensors.items()} != dict(self.shapes):
            raise ValueError("The arrays of a message are not those of this adapter.")
        return np.concatenate([tensors[name].ravel() for name, _ in self.shapes])


@dataclass(frozen=True)
class NodeSum:
    """What a node answers: sums over all its units, and figures only a simulation may see.

    Sum, bits and rows stay inside the trusted side until the mechanism noises what it needs.
    """

    total: np.ndarray  # (D,) float64
    simulation_only: Mapping[str, float]
    unclipped_bits: float | None = None  # sum over units of 1[unclipped] - 1/2, if asked for
    rows: np.ndarray | None = None  # (units, D) float64 whose sum is ``total``, if asked for


def train_message(
    node: int,
    adapter: ArrayRecord,
    contract: Contract,
    assignment: Assignment,
    scale: ArrayRecord | None = None,
) -> Message:
    """``scale``: what every unit multiplies its update by before the clip; None: nothing."""
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


def read_train(message: Message) -> tuple[ArrayRecord, Contract, Assignment]:
    content = message.content
    fields: dict[str, Any] = dict(content.config_records["contract"])
    asked = content.config_records["assignment"]
    assignment = Assignment(*(np.array(asked[key], np.int64) for key in ("users", "slots")))
    return content.array_records["adapter"], Contract(**fields), assignment


def read_scale(message: Message) -> ArrayRecord | None:
    """What the units of a train message multiply their updates by, if it says so."""
    return message.content.array_records.get("scale")


def train_reply(message: Message, layout: Layout, answer: NodeSum) -> Message:
    content = RecordDict(
        {
            "clipped_sum": layout.to_arrays(answer.total),
            "simulation_only": MetricRecord(dict(answer.simulation_only)),
        }
    )
    if answer.unclipped_bits is not None:  # no metric: it takes part in the release
        content["unclipped_bits"] = ConfigRecord({"sum": answer.unclipped_bits})
    if answer.rows is not None:
        content["clipped_rows"] = ArrayRecord({"rows": _array(answer.rows)})
    return Message(content, reply_to=message)


def read_reply(message: Message, layout: Layout) -> NodeSum:
    """The node's answer.

    Raises:
        ValueError: the arrays are not of this layout.
    """
    content = message.content
    total = layout.to_vector(content.array_records["clipped_sum"]).astype(np.float64)
    metrics: Any = content.metric_records["simulation_only"]
    bits: Any = content.config_records.get("unclipped_bits", {"sum": None})["sum"]
    return NodeSum(total, dict(metrics), bits, _rows(content, layout))


def _rows(content: RecordDict, layout: Layout) -> np.ndarray | None:
    if "clipped_rows" not in content:
        return None
    rows = content.array_records["clipped_rows"]["rows"].numpy()
    if rows.ndim != 2 or rows.shape[1] != layout.size or rows.dtype != np.float64:
        raise ValueError("The rows of a reply are not updates of this adapter.")
    return rows


def _array(tensor: np.ndarray) -> Any:
    return Array(np.ascontiguousarray(tensor))
