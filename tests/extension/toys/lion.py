"""Server optimiser Lion, without weight decay (Chen et al., arXiv 2302.06675, Algorithm 2)."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch


class Lion(torch.optim.Optimizer):
    """``x <- x - lr sign(beta1 m + (1 - beta1) g)``, then ``m <- beta2 m + (1 - beta2) g``."""

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        lr: float = 0.001,
        betas: Sequence[float] = (0.9, 0.99),
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": tuple(betas)})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                gradient, state = parameter.grad, self.state[parameter]
                momentum = state.setdefault("momentum", torch.zeros_like(parameter))
                parameter.sub_(group["lr"] * momentum.lerp(gradient, 1 - beta1).sign())
                momentum.lerp_(gradient, 1 - beta2)
