"""Roots of falling functions against closed forms, jumps and infinities."""

import math

import pytest

from userdp.sim.common.root_finding import private_root


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("guess", [0.01, 1.0, 1e4])
def test_private_root_of_a_power_law(power, guess):
    noise = private_root(lambda z: 5 * z**-power, 2.0, guess)
    tight = 2.5 ** (1 / power)
    assert tight <= noise <= tight * 1.005


def test_private_root_passes_infinities_and_zeros():
    def cliff(z: float) -> float:
        return math.inf if z < 3 else 0.0

    assert 3 <= private_root(cliff, 1.0, 1.0) <= 3.003
    with pytest.raises(ValueError, match="no noise multiplier"):
        private_root(lambda z: math.inf, 1.0, 1.0)
