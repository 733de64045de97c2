"""DP-AdamBC: Adam whose second moment is corrected for the known variance of the noise.

Tang, Shpilevskiy and Lecuyer, arXiv 2312.14334 (AAAI 2024). With g_t the negative of the released
mean, sigma_t the standard deviation of the noise on one of its coordinates, and t = 1, 2, ...:

    m_t = b1 m_{t-1} + (1 - b1) g_t
    v_t = b2 v_{t-1} + (1 - b2) g_t^2
    w_t = b2 w_{t-1} + (1 - b2) sigma_t^2
    x_t = x_{t-1} - lr (m_t / (1 - b1^t)) / sqrt(max((v_t - w_t) / (1 - b2^t), floor))

Where the noise exceeds the signal, Adam's ``sqrt(v_t)`` tends to sigma, so Adam acts as SGD with a
small learning rate. ``v_t - w_t`` estimates the second moment of the mean before noise. The paper
has a constant sigma, hence ``w_t / (1 - b2^t) = sigma^2``. In this package the noise may follow an
adaptive clip norm, so w averages sigma^2 with the same weights and bias correction as v averages
g^2. The floor (gamma' in the paper) is a variance: no coordinate moves as if its signal were below
``sqrt(floor)``.

The rule uses releases and public noise levels only, so it costs no privacy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from userdp.sim.common.errors import ConfigurationError


class AdamBC(torch.optim.Optimizer):
    """A torch optimiser that needs ``noise_std`` in its groups before every step.

    Args:
        params: parameters of any shape.
        lr: learning rate, positive.
        betas: b1 and b2, within [0, 1).
        floor: smallest corrected second moment, in squared units of the mean; positive.

    Raises:
        ConfigurationError: a value out of its range.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.03,
        betas: Sequence[float] = (0.9, 0.999),
        floor: float = 1.6e-5,
    ) -> None:
        for name, value in (("lr", lr), ("floor", floor)):
            if not 0 < value < math.inf:
                raise ConfigurationError(f"optimizer.{name}={value}: must be positive and finite.")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ConfigurationError(
                f"optimizer.betas={list(betas)}: expected two numbers, at least 0 and below 1."
            )
        super().__init__(
            params, {"lr": lr, "betas": tuple(betas), "floor": floor, "noise_std": None}
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step along ``-grad``, where the group's ``noise_std`` is that of ``grad``.

        Raises:
            ValueError: ``noise_std`` was not set for this step; each value serves one step.
        """
        for group in self.param_groups:
            noise_std, group["noise_std"] = group["noise_std"], None
            if noise_std is None:
                raise ValueError("AdamBC needs the noise_std of every mean it steps along.")
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, noise_std, group)

    def _update(
        self, parameter: Tensor, gradient: Tensor, noise_std: float, group: dict[str, Any]
    ) -> None:
        """Step one parameter along its gradient, a tensor of the same shape."""
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:
            state.update(step=0, noise_variance=0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].lerp_(gradient.square(), 1 - beta2)
        state["noise_variance"] = beta2 * state["noise_variance"] + (1 - beta2) * noise_std**2
        signal = (state["exp_avg_sq"] - state["noise_variance"]) / (1 - beta2 ** state["step"])
        step_size = group["lr"] / (1 - beta1 ** state["step"])
        root = signal.clamp_(min=group["floor"]).sqrt_()
        parameter.addcdiv_(state["exp_avg"], root, value=-step_size)
