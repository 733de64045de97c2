"""Discretised losses of both directions against exact integrals, on fine and coarse grids."""

import pytest

from helpers.exact_privacy import Mixture, event
from userdp.server.accounting.pld import convolution, loss_grid, privacy_loss

SMALL = [(0.1, 1.0, 1), (0.01, 0.6, 1), (0.3, 2.0, 3), (0.02, 1.5, 8)]


@pytest.mark.parametrize("setting", SMALL)
@pytest.mark.parametrize("removal", [True, False])
@pytest.mark.parametrize("coarseness", [1.5, 0.4, 0.05])
def test_two_rounds_hold_the_exact_divergence_on_any_grid(setting, removal, coarseness):
    # Both directions, and grids that are far too coarse: only tightness may depend on the grid.
    delta, one, exact = 1e-5, event(*setting), Mixture(*setting)
    step = coarseness * privacy_loss.loss_deviation(one)
    sides = {}
    for side, discretise in (("lower", loss_grid.optimistic), ("upper", loss_grid.pessimistic)):
        both = discretise(one, step, 1e-16)
        losses = [(both.removal if removal else both.addition, 2)]
        sides[side] = convolution.epsilon(losses, delta, side)
    if sides["lower"] > 0:
        assert exact.delta_of_two(sides["lower"], removal) >= delta * (1 - 1e-6)
    assert exact.delta_of_two(sides["upper"], removal) <= delta * (1 + 1e-6)
    if coarseness == 0.05:
        assert sides["upper"] < 1.02 * sides["lower"] + 0.002


@pytest.mark.filterwarnings("error")
def test_noise_so_small_that_losses_leave_float64_is_an_error_and_no_number():
    with pytest.raises(OverflowError, match="too little noise"):
        loss_grid.pessimistic(event(0.05, 1e-3, 1), 1e4, 1e-12)
