"""Settings of the server optimiser: its name, and options of plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from userdp.sim.common.errors import ConfigurationError

_PLAIN = (bool, int, float, str, type(None))
_OLD_NAME, _OLD_PARTIAL = "_target_", "_partial_"  # how older versions named the class
_NAMES = {  # and what today's table calls these classes
    "torch.optim.Adam": "adam",
    "torch.optim.AdamW": "adamw",
    "torch.optim.SGD": "sgd",
    "userdp.server.optimizers.adam_bc.AdamBC": "adam_bc",
    "userdp.server.optimizers.scale_then_privatize.ScaleThenPrivatize": "scale_then_privatize",
}


def current(values: Any) -> Any:
    """The group ``optimizer`` as today's versions write it: ``name`` beside the options.

    >>> current({"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.1})
    {'name': 'adam', 'lr': 0.1}

    Args:
        values: of the group, as composed; anything but a mapping is returned unchanged.
    """
    if not isinstance(values, Mapping) or "name" in values or _OLD_NAME not in values:
        return values
    name = values[_OLD_NAME]
    options = {key: value for key, value in values.items() if key != _OLD_NAME}
    if options.get(_OLD_PARTIAL) is True:
        del options[_OLD_PARTIAL]
    return {"name": _NAMES.get(name, name) if isinstance(name, str) else name, **options}


def check(values: Mapping[str, Any]) -> None:
    """Refuse options that are no plain values, and keys by which a name could be called.

    Raises:
        ConfigurationError: names the first such option.
    """
    name = values.get("name")
    if not isinstance(name, str):
        raise ConfigurationError(f"optimizer.name={name}: name an optimiser, for example adam.")
    for key, value in values.items():
        if key.startswith("_"):
            raise ConfigurationError(f"optimizer.{key}={value}: no such option; leave it out.")
        items = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(item, _PLAIN) for item in items):
            raise ConfigurationError(
                f"optimizer.{key}={value}: should be a plain value, or a list of plain values."
            )
        if not all(math.isfinite(item) for item in items if isinstance(item, float)):
            raise ConfigurationError(f"optimizer.{key}={value}: must be finite.")
