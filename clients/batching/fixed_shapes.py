"""Shapes of stacks that no record decides but the one that is computed: for bfloat16.

A kernel may round differently at another shape: it sums in another order. In bfloat16 this moves an
update by up to about 1 % when the records beside it change, and the update of every unit of a round
could move with one unit. A stack of fixed shape rules that out: a record's padded length follows
from its own length, the number of rows from the padded length, and the loss is computed at every
position of every row. Missing rows are copies of the first one, of weight zero.

What is left is that a kernel computes a row in the same way wherever it stands and whatever the
other rows hold; `userdp.clients.models.isolation_probe` measures it on the device at hand.
"""

from __future__ import annotations

from dataclasses import dataclass

_LEAST = 16  # positions of the shortest rows
POSITIONS = {"cpu": 512, "cuda": 4096}  # of a stack, by device: missing rows are computed too


@dataclass(frozen=True)
class FixedShapes:
    """The shapes of all stacks of one model.

    >>> shapes = FixedShapes(longest=100, positions=512)
    >>> [shapes.width(length) for length in (2, 18, 26, 90, 101)]
    [17, 25, 33, 97, 101]
    >>> shapes.rows(17, most=10**6), shapes.rows(101, most=10**6), shapes.rows(101, most=100)
    (32, 5, 1)
    """

    longest: int | None  # positions that the model can read; None: no limit
    positions: int  # of a stack, about
    every_position: bool = True  # compute the loss at all positions, not at the learned ones only

    def width(self, length: int) -> int:
        """The padded length in tokens of a record of ``length`` tokens, one more than positions.

        Positions are powers of two, and one and a half times these: at most a third is padding.
        """
        positions = _LEAST
        while positions < length - 1:
            power = positions & (positions - 1) == 0
            positions = positions * 3 // 2 if power else positions * 4 // 3
        if self.longest is not None:
            positions = min(positions, self.longest)
        return max(length, positions + 1)

    def rows(self, width: int, most: int) -> int:
        """Rows of a stack of this padded length, of at most about ``most`` positions."""
        return max(1, min(self.positions, most) // (width - 1))
