"""Ragged rows of lanes, and their products by lane in float64: the oracle of each backend."""

from __future__ import annotations

from typing import NamedTuple

import torch

SMALL = 1e-5  # relative error of a lane's product, far above float32 rounding of some 4,096 terms
LENGTHS = [0, 1, 7, 255, 0, 0, 4096, 3, 3, 3, 1, 0]  # of the lanes


class Ragged(NamedTuple):
    """Rows of all lanes, one lane after another."""

    left: torch.Tensor  # (n, p)
    right: torch.Tensor  # (n, q)
    starts: torch.Tensor  # (lanes + 1,) int32

    def lanes(self):
        """The rows of each lane in float64."""
        for start, end in self.starts.unfold(0, 2, 1).tolist():
            yield self.left[start:end].double(), self.right[start:end].double()


def ragged(lengths, p, q, dtype=torch.float32, seed=0):
    """Rows of a normal distribution, stored as they come (rows first)."""
    source = torch.Generator().manual_seed(seed)
    n, ends = sum(lengths), torch.tensor(lengths).cumsum(0)
    left, right = (torch.randn(n, width, generator=source).to(dtype) for width in (p, q))
    return Ragged(left, right, torch.cat([ends.new_zeros(1), ends]).to(torch.int32))


def exact(rows):
    """(lanes, p, q) float64, lane by lane."""
    return torch.stack([left.T @ right for left, right in rows.lanes()])


def error(got, wanted):
    """Largest relative error of a lane's product; infinite for NaN, and beside zeros."""
    difference = (got.double() - wanted).flatten(1).norm(dim=1)
    size = wanted.flatten(1).norm(dim=1)
    shares = torch.where(difference == 0, 0.0, difference / size)
    return float(shares.nan_to_num(nan=torch.inf).max())
