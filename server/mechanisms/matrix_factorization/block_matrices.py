"""Banded lower-triangular matrices in blocks: covariance of the solution, and its gradient.

Bands are stored by column: ``bands[d, j] = A[j + d, j]``, shape (width, T). Cut into blocks no
smaller than ``width - 1``, A has a diagonal block ``A_k`` and one block ``F_k`` below it in each
column of blocks, so the covariance of the solution u of ``A u = xi``, ``xi ~ N(0, I)``, runs down
the diagonal by itself (a Kalman recursion; sums of positive terms, no cancellation):

    V_k = A_k^-1 (I + F_{k-1} V_{k-1} F_{k-1}^T) A_k^-T

at the cost O(T width^2) instead of the O(T^3) of an inverse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_SMALLEST_BLOCK = 24  # below, the loop over blocks costs more than the blocks


@dataclass(frozen=True)
class Blocks:
    """How bands of one shape are cut; blocks are counted from 0, the last one may be padded."""

    width: int
    size: int  # T

    @property
    def edge(self) -> int:
        """Rows of a block."""
        return min(self.size, max(self.width - 1, _SMALLEST_BLOCK))

    @property
    def count(self) -> int:
        return -(-self.size // self.edge)

    def inside(self) -> np.ndarray:
        """(width, T) whether an entry of the bands lies in the matrix."""
        return np.add.outer(np.arange(self.width), np.arange(self.size)) < self.size

    def _places(self) -> tuple[np.ndarray, ...]:
        """Of each inside entry: its block's column, row and column in the block, whether below."""
        depth, column = np.nonzero(self.inside())
        block_row, row = np.divmod(depth + column, self.edge)
        block, column = np.divmod(column, self.edge)
        return block, row, column, block_row > block

    def split(self, bands: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(count, edge, edge) blocks on the diagonal and below it; padding is the identity."""
        block, row, column, below = self._places()
        shape = (self.count, self.edge, self.edge)
        diagonal, under = np.zeros(shape), np.zeros(shape)
        padded = np.arange(self.size - (self.count - 1) * self.edge, self.edge)
        diagonal[-1, padded, padded] = 1.0
        values = bands[self.inside()]
        diagonal[block[~below], row[~below], column[~below]] = values[~below]
        under[block[below], row[below], column[below]] = values[below]
        return diagonal, under

    def join(self, diagonal: np.ndarray, under: np.ndarray) -> np.ndarray:
        """(width, T) bands of blocks: the inverse of ``split``, and zero outside the matrix."""
        block, row, column, below = self._places()
        values = np.where(below, under[block, row, column], diagonal[block, row, column])
        bands = np.zeros((self.width, self.size))
        bands[self.inside()] = values
        return bands

    def padded(self, values: np.ndarray) -> np.ndarray:
        """(count, edge) of a vector (T,), with zeros after its end."""
        wide = np.zeros(self.count * self.edge)
        wide[: self.size] = values
        return wide.reshape(self.count, self.edge)


def variances(bands: np.ndarray) -> np.ndarray:
    """(T,) diagonal of ``A^-1 A^-T``, for bands (width, T) of A."""
    blocks = Blocks(*bands.shape)
    covariances, _ = _covariances(*blocks.split(bands))
    return np.concatenate([np.diag(v) for v in covariances])[: blocks.size]


def weighted_variance(bands: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """``sum_t weights_t (A^-1 A^-T)_tt`` and its gradient (width, T) in the bands.

    With ``W_k`` the gradient in ``V_k``, carried back from the last block to the first,
    ``dA_k = -2 A_k^-T W_k V_k`` and ``dF_{k-1} = 2 (A_k^-T W_k A_k^-1) F_{k-1} V_{k-1}``.
    """
    blocks = Blocks(*bands.shape)
    diagonal, under = blocks.split(bands)
    covariances, inverses = _covariances(diagonal, under)
    shares = blocks.padded(weights)
    total = sum(float(s @ np.diag(v)) for s, v in zip(shares, covariances, strict=True))
    d_diagonal, d_under = np.zeros_like(diagonal), np.zeros_like(under)
    back = np.diag(shares[-1])
    for k in range(blocks.count - 1, -1, -1):
        d_diagonal[k] = -2 * inverses[k].T @ back @ covariances[k]
        if k > 0:
            inner = inverses[k].T @ back @ inverses[k] @ under[k - 1]
            d_under[k - 1] = 2 * inner @ covariances[k - 1]
            back = np.diag(shares[k - 1]) + under[k - 1].T @ inner
    return total, blocks.join(d_diagonal, d_under)


def _covariances(diagonal: np.ndarray, under: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """V_k and A_k^-1 of every block."""
    identity = np.eye(diagonal.shape[1])
    inverses = np.linalg.inv(diagonal)
    covariances: list[np.ndarray] = []
    for k, inverse in enumerate(inverses):
        carried = under[k - 1] @ covariances[-1] @ under[k - 1].T if k else 0.0
        covariances.append(inverse @ (identity + carried) @ inverse.T)
    return covariances, inverses
