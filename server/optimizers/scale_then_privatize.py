"""Scale-then-privatize: units scale their updates by Adam's preconditioner before clip and noise.

Ganesh, McMahan and Thakurta, arXiv 2507.01129 (Algorithm 8). Every unit's update u is multiplied,
coordinate by coordinate, by a public vector s_t; clip and noise act in this scaled space; the
released mean is divided by s_t, and Adam steps along the quotient:

    h_t = (sum over units of clip(s_t * u, C) + N(0, (z C)^2 I)) / m        the release
    g_t = -h_t / s_t                                                        Adam's gradient
    s_{t+1} = c / (sqrt(v_t / (1 - b2^t)) + eps)                            s_1 = 1

with v_t Adam's second moment of g_1 ... g_t, and c such that the root mean square of s is 1: an
update whose energy is spread evenly keeps its norm, so that C has the same meaning as without a
scale. (The paper has no c; there C is in units of s, which grow and shrink with the gradients.)
Noise on g then has the standard deviation z C / (m s): smaller where past means were small, instead
of the same everywhere. v includes the noise on purpose: the paper finds it better than an unbiased
moment.

Guarantee. Fix the releases h_1 ... h_{t-1}. Then s_t is a constant vector, since it is a function
of these and of the configuration only: it is the same with and without any one unit. A unit
therefore moves the sum above by one row of norm at most C, whatever s_t is, because the clip comes
after the scale and is the last step before the sum. So h_t is the Gaussian of multiplier z,
sensitivity C and noise z C that the ledger records, chosen adaptively from earlier releases, as
composition allows. Division by s_t, v_{t+1} and the step are functions of h_1 ... h_t. Privacy does
not depend on s.

The larger eps is compared with sqrt(v), the nearer s is to 1. Noise alone keeps sqrt(v) at about
the noise's standard deviation on the mean, so an eps of that order bounds how far coordinates that
hold only noise are scaled up round after round.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from userdp.sim.common.errors import ConfigurationError


class ScaleThenPrivatize(torch.optim.Adam):
    """torch's Adam, which also gives the scale for the updates of the next round.

    Args:
        params: one flat parameter (D,).
        lr, betas, eps: of Adam.
        scale_eps: eps of the scale, in units of the released mean; positive.

    Raises:
        ConfigurationError: ``scale_eps`` is outside its range, or ``betas`` is not a pair.
        ValueError: torch refuses a parameter of Adam.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.03,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        scale_eps: float = 0.01,
    ) -> None:
        if not 0 < scale_eps < math.inf:
            raise ConfigurationError(
                f"optimizer.scale_eps={scale_eps}: must be positive and finite."
            )
        if len(betas) != 2:
            raise ConfigurationError(f"optimizer.betas={list(betas)}: expected two numbers.")
        super().__init__(params, lr=lr, betas=(betas[0], betas[1]), eps=eps)
        self.scale_eps = scale_eps

    def scale(self) -> np.ndarray | None:
        """s (D,) float32 of the next round, root mean square 1; None before the first release."""
        [group] = self.param_groups
        [parameter] = group["params"]
        state = self.state.get(parameter)
        if not state:
            return None
        correction = 1 - group["betas"][1] ** float(state["step"])
        second = state["exp_avg_sq"].numpy().astype(np.float64) / correction
        inverse = 1 / (np.sqrt(second) + self.scale_eps)
        scale: np.ndarray = (inverse / np.sqrt(np.mean(inverse**2))).astype(np.float32)
        return scale
