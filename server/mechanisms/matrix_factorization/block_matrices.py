"""Variances of the solution of a banded lower-triangular system, and their gradient, by blocks.

Bands are stored by column: ``bands[d, j] = A[j + d, j]``, shape (width, T). Cut into blocks of at
least ``width - 1`` rows, A has a diagonal block ``A_k`` and one block ``F_k`` below it in each
column of blocks. The diagonal blocks ``V_k`` of the covariance of u, where ``A u = xi`` and
``xi ~ N(0, I)``, then follow from one another (a Kalman recursion; sums of positive terms, no
cancellation):

    V_k = A_k^-1 (I + F_{k-1} V_{k-1} F_{k-1}^T) A_k^-T

at the cost O(T width^2) instead of the O(T^3) of an inverse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_SMALLEST_BLOCK = 24  # with fewer rows, the loop over blocks costs more than their products


@dataclass(frozen=True)
class Blocks:
    """How bands of one shape are cut into blocks, counted from 0; the last one may be padded."""

    width: int
    size: int  # T

    @property
    def edge(self) -> int:
        """Rows of a block."""
        return min(self.size, max(self.width - 1, _SMALLEST_BLOCK))

    @property
    def count(self) -> int:
        """Number of diagonal blocks."""
        return -(-self.size // self.edge)

    def inside(self) -> np.ndarray:
        """(width, T) bool: whether an entry of the bands lies inside the matrix."""
        return np.add.outer(np.arange(self.width), np.arange(self.size)) < self.size

    def _positions(self) -> tuple[np.ndarray, ...]:
        """For each entry inside the matrix, (entries,) each: column of its block, row and column
        within the block, and whether the block lies below the diagonal.
        """
        depth, column = np.nonzero(self.inside())
        block_row, row = np.divmod(depth + column, self.edge)
        block, column = np.divmod(column, self.edge)
        return block, row, column, block_row > block

    def split(self, bands: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Blocks on the diagonal, and below it, of bands (width, T); (count, edge, edge) each.

        The last block on the diagonal is padded with the identity.
        """
        block, row, column, below = self._positions()
        shape = (self.count, self.edge, self.edge)
        diagonal, under = np.zeros(shape), np.zeros(shape)
        padded = np.arange(self.size - (self.count - 1) * self.edge, self.edge)
        diagonal[-1, padded, padded] = 1.0
        values = bands[self.inside()]
        diagonal[block[~below], row[~below], column[~below]] = values[~below]
        under[block[below], row[below], column[below]] = values[below]
        return diagonal, under

    def join(self, diagonal: np.ndarray, under: np.ndarray) -> np.ndarray:
        """(width, T) bands of blocks (count, edge, edge): the inverse of `split`.

        Entries outside the matrix are zero.
        """
        block, row, column, below = self._positions()
        values = np.where(below, under[block, row, column], diagonal[block, row, column])
        bands = np.zeros((self.width, self.size))
        bands[self.inside()] = values
        return bands

    def padded(self, values: np.ndarray) -> np.ndarray:
        """A vector (T,) by blocks, (count, edge), with zeros after its end."""
        padded = np.zeros(self.count * self.edge)
        padded[: self.size] = values
        return padded.reshape(self.count, self.edge)


def variances(bands: np.ndarray) -> np.ndarray:
    """(T,) diagonal of ``A^-1 A^-T``, for bands (width, T) of A."""
    blocks = Blocks(*bands.shape)
    covariances, _ = _covariances(*blocks.split(bands))
    return np.concatenate([np.diag(v) for v in covariances])[: blocks.size]


def weighted_variance(bands: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """``sum_t weights_t (A^-1 A^-T)_tt``, and its gradient in the bands.

    With ``W_k`` the gradient in ``V_k``, computed from the last block to the first,
    ``dA_k = -2 A_k^-T W_k V_k`` and ``dF_{k-1} = 2 (A_k^-T W_k A_k^-1) F_{k-1} V_{k-1}``.

    Args:
        bands: (width, T) float64, of A.
        weights: (T,) float64.

    Returns:
        The sum, and the gradient (width, T).
    """
    blocks = Blocks(*bands.shape)
    diagonal, under = blocks.split(bands)
    covariances, inverses = _covariances(diagonal, under)
    parts = blocks.padded(weights)
    total = sum(float(part @ np.diag(v)) for part, v in zip(parts, covariances, strict=True))
    d_diagonal, d_under = np.zeros_like(diagonal), np.zeros_like(under)
    gradient = np.diag(parts[-1])  # W_k
    for k in range(blocks.count - 1, -1, -1):
        d_diagonal[k] = -2 * inverses[k].T @ gradient @ covariances[k]
        if k > 0:
            inner = inverses[k].T @ gradient @ inverses[k] @ under[k - 1]
            d_under[k - 1] = 2 * inner @ covariances[k - 1]
            gradient = np.diag(parts[k - 1]) + under[k - 1].T @ inner
    return total, blocks.join(d_diagonal, d_under)


def _covariances(diagonal: np.ndarray, under: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """V_k (edge, edge) of every block, and A_k^-1 (count, edge, edge)."""
    identity = np.eye(diagonal.shape[1])
    inverses = np.linalg.inv(diagonal)
    covariances: list[np.ndarray] = []
    for k, inverse in enumerate(inverses):
        carried = under[k - 1] @ covariances[-1] @ under[k - 1].T if k else 0.0
        covariances.append(inverse @ (identity + carried) @ inverse.T)
    return covariances, inverses
