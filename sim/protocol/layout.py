"""Names and shapes of an adapter's tensors, and their positions in one flat vector.

In messages and in the exported file the tensors have the names that peft gives them; inside a node
and inside the server the adapter is one flat vector (D,).
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
    """Names and shapes of an adapter's tensors, in the order of the flat vector.

    >>> layout = Layout.of({"a": (2, 3), "b": (4,)})
    >>> layout.size, [tensor.shape for tensor in layout.named(np.arange(10.0)).values()]
    (10, [(2, 3), (4,)])
    """

    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> Layout:
        """The layout of tensors with these shapes, by name and in this order."""
        return cls(tuple((name, tuple(shape)) for name, shape in shapes.items()))

    @property
    def size(self) -> int:
        """D, the number of adapter parameters."""
        return sum(int(np.prod(shape)) for _, shape in self.shapes)

    @property
    def digest(self) -> str:
        """Hash of names and shapes: adapters with the same digest can be added."""
        return hashlib.sha256(repr(self.shapes).encode()).hexdigest()[:16]

    def parts(self) -> Iterator[tuple[slice, tuple[int, ...]]]:
        """The slice of each tensor in the flat vector, and the tensor's shape."""
        start = 0
        for _, shape in self.shapes:
            end = start + int(np.prod(shape))
            yield slice(start, end), shape
            start = end

    def named(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """The tensors of a flat vector (D,), by name; views where the vector is contiguous."""
        names = (name for name, _ in self.shapes)
        return {
            name: vector[part].reshape(shape)
            for name, (part, shape) in zip(names, self.parts(), strict=True)
        }

    def to_arrays(self, vector: np.ndarray) -> ArrayRecord:
        """The tensors of a flat vector (D,) as a record of a Flower message."""
        return ArrayRecord({name: to_array(tensor) for name, tensor in self.named(vector).items()})

    def to_vector(self, arrays: ArrayRecord) -> np.ndarray:
        """The flat vector (D,) of a record's tensors, in their dtype.

        Raises:
            ValueError: names or shapes are not those of this layout.
        """
        tensors = {name: array.numpy() for name, array in arrays.items()}
        if {name: tensor.shape for name, tensor in tensors.items()} != dict(self.shapes):
            raise ValueError("The arrays of a message are not those of this adapter.")
        return np.concatenate([tensors[name].ravel() for name, _ in self.shapes])


def to_array(tensor: np.ndarray) -> Any:
    """The tensor, of any shape, in the type that Flower sends."""
    return Array(np.ascontiguousarray(tensor))
