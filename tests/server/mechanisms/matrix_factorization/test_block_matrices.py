"""The gradient of the block recursion equals finite differences."""

from __future__ import annotations

import numpy as np
import pytest

from userdp.server.mechanisms.matrix_factorization import block_matrices


@pytest.mark.parametrize(("width", "size"), [(1, 4), (3, 60), (26, 77), (25, 24)])
def test_the_gradient_of_the_block_recursion_is_that_of_differences(width, size):
    source = np.random.default_rng(0)
    blocks = block_matrices.Blocks(width, size)
    bands = np.where(blocks.inside(), 0.2 * source.standard_normal((width, size)), 0.0)
    bands[0] = 1 + source.random(size)
    weights = source.random(size)
    _, gradient = block_matrices.weighted_variance(bands, weights)
    assert (gradient[~blocks.inside()] == 0).all()
    for _ in range(5):
        step = np.where(blocks.inside(), source.standard_normal((width, size)), 0.0)
        ahead, behind = (
            block_matrices.weighted_variance(bands + sign * 1e-5 * step, weights)[0]
            for sign in (1, -1)
        )
        assert (gradient * step).sum() == pytest.approx((ahead - behind) / 2e-5, rel=1e-5)
