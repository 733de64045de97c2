"""Server optimiser: steps the global adapter with torch.optim, along released means only.

All of it is post-processing of releases and costs no privacy.
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

    def scale(self) -> np.ndarray | None:
        """(D,) float32, positive, computed from releases alone; None before the first release."""
        ...


class ServerOptimizer:
    """The global adapter and its optimiser (FedOpt, Reddi et al., arXiv 2003.00295, Algorithm 1).

    It also keeps an average of the adapter over the rounds, in which noise cancels: round weights
    are proportional to ``average^age`` (De et al., arXiv 2204.13650). Clients start from the
    adapter, not from its average.

    Args:
        adapter: (D,), where the first round starts.
        make: builds the optimiser of a list of one parameter (D,) float32.
        factor: step t = 0, 1, ... -> factor on the learning rate.
        average: decay of the average; 0 keeps the last adapter alone.

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
        """(D,) float32 adapter after the last round, where the next one starts."""
        return self._parameter.detach().numpy().copy()

    @property
    def averaged(self) -> np.ndarray:
        """(D,) float32 average that is scored and saved; the adapter itself if ``average`` is 0."""
        return self._averaged.numpy().copy()

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        return float(self._schedule.get_last_lr()[0])

    @property
    def rescales(self) -> bool:
        """Whether units multiply their updates by a scale before the clip."""
        return isinstance(self._optimizer, Rescaling)

    @property
    def scale(self) -> np.ndarray | None:
        """(D,) float32 by which units multiply their next update before the clip, if any."""
        optimizer = self._optimizer
        with np.errstate(all="ignore"):  # of a state that is lost
            return optimizer.scale() if isinstance(optimizer, Rescaling) else None

    def step(self, noised_mean: np.ndarray, noise_std: float) -> None:
        """One step along a released mean: its negative is the gradient.

        A step beyond the range of float32 leaves an adapter of NaN, whether torch computes one or
        refuses to.

        Args:
            noised_mean: (D,) of updates that were multiplied by ``scale``; it is divided by
                ``scale`` first.
            noise_std: standard deviation of the noise on one coordinate of ``noised_mean``, a
                public number; only optimisers for noisy gradients use it.
        """
        scale = self.scale
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            update = noised_mean if scale is None else noised_mean / scale
            gradient = -update.astype(np.float32)
        for group in self._optimizer.param_groups:
            if "noise_std" in group:  # the optimiser takes the noise into account
                group["noise_std"] = noise_std
        self._parameter.grad = torch.from_numpy(gradient)
        try:
            self._optimizer.step()
        except (OverflowError, RuntimeError) as error:
            if "overflow" not in str(error) and not isinstance(error, OverflowError):
                raise
            with torch.no_grad():
                self._parameter.fill_(torch.nan)
        self._schedule.step()
        self._weight = self._average * self._weight + 1
        self._averaged.lerp_(self._parameter.detach(), 1 / self._weight)

    def state(self) -> dict[str, Any]:
        """State for `restore`: adapter, optimiser, schedule and average."""
        return {
            "adapter": self._parameter.detach(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "averaged": self._averaged,
            "weight": self._weight,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned.

        Raises:
            KeyError, TypeError, ValueError: it is of another optimiser or adapter.
        """
        for name in ("adapter", "averaged"):
            if state[name].shape != self._averaged.shape:
                raise ValueError(f"{name} has shape {tuple(state[name].shape)}")
        with torch.no_grad():
            self._parameter.copy_(state["adapter"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._averaged.copy_(state["averaged"])
        self._weight = float(state["weight"])
