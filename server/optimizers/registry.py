"""The table of server optimisers: the names that `optimizer.name` may have, and their options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.common.table import Table

_ROOM = "userdp.server.optimizers"
Make = Callable[[list[torch.Tensor]], torch.optim.Optimizer]

OPTIMIZERS: Table[type[torch.optim.Optimizer]] = Table(
    "optimizer.name",
    {
        "adam": "torch.optim.Adam",
        "adamw": "torch.optim.AdamW",
        "sgd": "torch.optim.SGD",
        "adam_bc": f"{_ROOM}.adam_bc.AdamBC",
        "scale_then_privatize": f"{_ROOM}.scale_then_privatize.ScaleThenPrivatize",
    },
    base=torch.optim.Optimizer,
)


def maker(name: str, options: Mapping[str, Any]) -> Make:
    """The function that builds an optimiser of a list of parameters.

    Args:
        name: of the table, or the dotted name of a subclass of `torch.optim.Optimizer`; nothing
            else is ever called.
        options: plain values, its keyword arguments.

    Raises:
        ConfigurationError: there is no such optimiser. The returned function raises it where the
            optimiser refuses its options.
    """
    optimizer: Callable[..., torch.optim.Optimizer] = OPTIMIZERS.find(name)
    given = {
        key: tuple(value) if isinstance(value, list) else value for key, value in options.items()
    }

    def make(parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
        try:
            return optimizer(parameters, **given)
        except ConfigurationError:
            raise
        except Exception as error:  # code of another package may fail in any way
            named = ", ".join(f"optimizer.{key}={value}" for key, value in options.items())
            raise ConfigurationError(f"optimizer={name}, {named}: {error}") from None

    return make
