"""Names and shapes of an adapter's tensors, and their places in one flat vector.

Tensors have the names that peft gives them, in messages and in the exported file; inside a node and
inside the server the adapter is one flat vector (D,).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord


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
        return ArrayRecord({name: to_array(tensor) for name, tensor in self.named(vector).items()})

    def to_vector(self, arrays: ArrayRecord) -> np.ndarray:
        """(D,) in the dtype of the record.

        Raises:
            ValueError: if names or shapes are not this layout's.
        """
        tensors = {name: array.numpy() for name, array in arrays.items()}
        if {name: t.shape for name, t in tensors.items()} != dict(self.shapes):
            raise ValueError("The arrays of a message are not those of this adapter.")
        return np.concatenate([tensors[name].ravel() for name, _ in self.shapes])


def to_array(tensor: np.ndarray) -> Any:
    """The tensor, of any shape, as Flower sends it."""
    return Array(np.ascontiguousarray(tensor))
