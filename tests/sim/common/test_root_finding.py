"""Roots of falling functions against closed forms, jumps and infinities."""

import math

import pytest

from userdp.sim.common.root_finding import falling_root


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("guess", [0.01, 1.0, 1e4])
def test_root_of_a_power_law(power, guess):
    root = falling_root(lambda z: 5 * z**-power, 2.0, guess)
    exact = 2.5 ** (1 / power)
    assert exact <= root <= exact * 1.005


def test_infinities_and_zeros_are_bisected():
    def jump(z: float) -> float:
        return math.inf if z < 3 else 0.0

    assert 3 <= falling_root(jump, 1.0, 1.0) <= 3.003
    with pytest.raises(ValueError, match=r"no noise multiplier .* target 1\.0"):
        falling_root(lambda z: math.inf, 1.0, 1.0, argument="noise multiplier")
