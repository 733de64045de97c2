"""Runs the Triton kernels on the CPU, by Triton's interpreter, and prints errors as JSON.

A process of its own: TRITON_INTERPRET=1 must be set before Triton is imported.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

from helpers.ragged import LENGTHS, error, exact, ragged
from userdp.clients.kernels import lane_products_triton, row_sums, row_sums_triton


class Builder(interpreter.InterpreterBuilder):
    """Of Triton 3.7, whose products take the bits of bfloat16 numbers for whole numbers."""

    def create_dot(self, a, b, *rest):
        return super().create_dot(self.wide(a), self.wide(b), *rest)

    def wide(self, part):
        if part.dtype.scalar != tl.bfloat16:
            return part
        bits = part.data.view(np.uint16).astype(np.uint32) << 16
        return interpreter.TensorHandle(bits.view(np.float32), tl.float32)


CASES = [
    ([0, 1, 7, 255, 0, 40, 0], 8, 136, torch.float32),
    ([0, 1, 7, 255, 0, 40, 0], 8, 136, torch.bfloat16),
    ([5, 0, 40, 33, 1], 130, 17, torch.bfloat16),
    ([5, 0, 40, 33, 1], 1, 20, torch.float32),
    ([5, 0, 40, 33, 1], 3, 200, torch.float32),
    ([0, 0], 3, 20, torch.float32),
    (LENGTHS, 5, 40, torch.float32),
    (LENGTHS, 40, 5, torch.bfloat16),
    ([1023, 1024, 1025, 0, 2048, 2049], 3, 20, torch.float32),
]
MANY = ([number % 8 for number in range(1000)], 3, 20, torch.float32)


def products(lengths, p, q, dtype):
    """Error of a lane's product, out of place and with rows and output stored otherwise."""
    rows = ragged(lengths, p, q, dtype)
    straight = torch.full((len(lengths), p, q), torch.nan)
    across = torch.full((len(lengths), q, p), torch.nan).mT
    turned = (rows.left.T.clone().T, rows.right.T.clone().T, rows.starts)
    lane_products_triton.products(*rows, straight)
    lane_products_triton.products(*turned, across)
    return max(error(out, exact(rows)) for out in (straight, across))


def poisoned():
    """Whether a lane's product is bit by bit the same beside lanes of NaN."""
    rows = ragged([5, 40, 33], 8, 20)
    wanted, got = torch.empty(3, 8, 20), torch.empty(3, 8, 20)
    lane_products_triton.products(*rows, wanted)
    for part in rows[:2]:
        part[:5], part[45:] = torch.nan, torch.inf
    lane_products_triton.products(*rows, got)
    return torch.equal(got[1], wanted[1]) and not torch.isfinite(got[[0, 2]]).any()


def long_lanes():
    """Rows of a lane that its programs add up, at most; whether its place changes a bit of it."""
    pieces = []
    kernel = lane_products_triton._kernel

    class Watched:
        def __getitem__(self, grid):
            pieces.append(grid[0])
            return kernel[grid]

    lengths = [7, 4096, 0, 1500]
    rows = ragged(lengths, 4, 20)
    order = [3, 2, 1, 0]
    parts = [part.split(lengths) for part in rows[:2]]
    moved = [torch.cat([part[lane] for lane in order]) for part in parts]
    ends = torch.tensor([0, *(lengths[lane] for lane in order)]).cumsum(0).to(torch.int32)
    wanted, got = (torch.full((4, 4, 20), torch.nan) for _ in range(2))
    lane_products_triton._kernel = Watched()
    lane_products_triton.products(*rows, wanted)
    lane_products_triton.products(*moved, ends, got)
    lane_products_triton._kernel = kernel
    return pieces, torch.equal(got[[3, 2, 1, 0]], wanted)


def sums():
    """Largest relative errors of the norms, of the sums, and of those of whole numbers."""
    rows = torch.randn(6, 17_000, generator=torch.Generator().manual_seed(0))
    rows[0], rows[1] = 1e30 * rows[0], 1e-30 * rows[1]
    rows[2, 5], rows[3, 16_999], rows[4] = torch.nan, -torch.inf, 0.0
    norms = row_sums.norms_in_blocks(rows)
    counted = torch.isfinite(norms)
    got = row_sums_triton.norms(rows)
    off = not torch.equal(torch.isfinite(got), counted) or bool(got[4] != 0)
    found = [(got / norms)[counted & (norms > 0)] - 1.0 + off]
    factors = torch.where(counted & (norms > 0), 1.0 / norms, 0.0)[:, None]
    for given in (factors, factors.expand(rows.shape).contiguous()):
        for scale, whole in ((1.0, False), (1e5, True)):
            options = (rows, scale * given, counted, whole)
            wanted = row_sums.sum_in_blocks(*options)
            found.append((row_sums_triton.weighted_sum(*options) - wanted) / scale)
    return [float(part.abs().nan_to_num(nan=torch.inf).max()) for part in found]


if __name__ == "__main__":
    interpreter.interpreter_builder.__class__ = Builder
    if "many" in sys.argv:
        print(json.dumps(products(*MANY)))
        sys.exit()
    print(
        json.dumps(
            {
                "products": [products(*case) for case in CASES],
                "sums": sums(),
                "lane": poisoned(),
                "long": long_lanes(),
            }
        )
    )
