"""The server optimiser: torch.optim on one flat vector, fed with released means only.

What it does is post-processing of a release and costs no privacy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from userdp.sim.common.errors import ConfigurationError


@runtime_checkable
class Rescaling(Protocol):
    """An optimiser whose units multiply their updates by a public scale before the clip."""

    def scale(self) -> np.ndarray:
        """(D,) float32, positive, computed from releases alone."""
        ...


class ServerOptimizer:
    """The global adapter (D,) float32 and what steps it (FedOpt, Reddi et al., 2003.00295).

    Beside it stands its average over the rounds, in which noise cancels: weights ``average^age``
    (De et al., 2204.13650), adding up to one. Clients start from the adapter, not from this.

    Raises:
        ConfigurationError: ``average`` is not in [0, 1).
    """

    def __init__(
        self,
        adapter: np.ndarray,
        make: Callable[[list[torch.Tensor]], torch.optim.Optimizer],
        factor: Callable[[int], float],
        average: float = 0.0,
    ) -> None:
        if not 0 <= average < 1:
            raise ConfigurationError(f"schedule.average={average}: must be in [0, 1).")
        self._parameter = torch.nn.Parameter(torch.from_numpy(adapter.astype(np.float32)))
        self._optimizer = make([self._parameter])
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, factor)
        self._average, self._weight = average, 0.0  # the sum of average^age so far
        self._averaged = self._parameter.detach().clone()

    @property
    def adapter(self) -> np.ndarray:
        """Of the last round: where the next one starts."""
        return self._parameter.detach().numpy().copy()

    @property
    def averaged(self) -> np.ndarray:
        """What is scored and saved: the adapter itself where ``average`` is 0."""
        return self._averaged.numpy().copy()

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self._schedule.get_last_lr()[0])

    @property
    def rescales(self) -> bool:
        """Whether units are to multiply their updates by a scale before the clip."""
        return isinstance(self._optimizer, Rescaling)

    @property
    def scale(self) -> np.ndarray | None:
        """What units multiply their next update by before the clip, (D,) float32; None: nothing."""
        rule = self._optimizer
        return rule.scale() if isinstance(rule, Rescaling) else None

    def step(self, noised_mean: np.ndarray, noise_std: float) -> None:
        """One step along a released mean update (D,): its negative is the gradient.

        The mean is of updates as ``scale`` asked for them, and is divided by it first.
        ``noise_std``: standard deviation of the noise on each of its coordinates, a public number
        that only optimisers made for noisy gradients look at.
        """
        scale = self.scale
        update = noised_mean if scale is None else noised_mean / scale
        for group in self._optimizer.param_groups:
            if "noise_std" in group:  # an optimiser that reckons with it
                group["noise_std"] = noise_std
        self._parameter.grad = torch.from_numpy(-update.astype(np.float32))
        self._optimizer.step()
        self._schedule.step()
        self._weight = self._average * self._weight + 1
        self._averaged.lerp_(self._parameter.detach(), 1 / self._weight)

    def state(self) -> dict[str, Any]:
        return {
            "adapter": self._parameter.detach(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "averaged": self._averaged,
            "weight": self._weight,
        }

    def restore(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self._parameter.copy_(state["adapter"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._averaged.copy_(state["averaged"])
        self._weight = float(state["weight"])
