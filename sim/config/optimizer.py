"""Settings of the server optimiser: its name, and options of plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import pydantic

from userdp.sim.common.bounds import LARGEST, Between, Kind
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.common.plain_text import shown
from userdp.sim.config import refusal
from userdp.sim.config.field_types import Decay, Flag, Real, Whole

_PLAIN = (bool, int, float, str, type(None))
_OLD_NAME, _OLD_PARTIAL = "_target_", "_partial_"  # how older versions named the class
_NAMES = {  # and what today's table calls these classes
    "torch.optim.Adam": "adam",
    "torch.optim.AdamW": "adamw",
    "torch.optim.SGD": "sgd",
    "userdp.server.optimizers.adam_bc.AdamBC": "adam_bc",
    "userdp.server.optimizers.scale_then_privatize.ScaleThenPrivatize": "scale_then_privatize",
}
_Rate = Annotated[Real, Between(0, 1e6)]
_Share = Annotated[Real, Between(0, 1)]
_Text = Annotated[str, pydantic.Strict(), Kind("choice")]
_Plain = Annotated[Whole | Real, Between(-LARGEST, LARGEST)] | Flag | _Text | None
_OTHER: Any = _Plain | list[_Plain] | tuple[_Plain, ...]
# Options of the table's optimisers; those of an optimiser elsewhere may mean anything finite.
_KINDS: Mapping[str, Any] = {
    **dict.fromkeys(("lr", "weight_decay"), _Rate),
    **dict.fromkeys(("eps", "floor", "scale_eps"), Annotated[Real, Between(0, 1e3)]),
    "momentum": Decay,
    "dampening": _Share,
    "betas": Annotated[tuple[Decay, Decay], pydantic.Strict(strict=False)],
    **dict.fromkeys(("amsgrad", "nesterov", "maximize", "capturable", "differentiable"), Flag),
    **dict.fromkeys(("foreach", "fused"), Flag | None),
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
    if not isinstance(name, str) or not name.strip():
        raise ConfigurationError(
            f"optimizer.name={shown(name)}: name an optimiser, for example adam."
        )
    for key, value in values.items():
        if key.startswith("_"):
            raise ConfigurationError(
                f"optimizer.{shown(key)}={shown(value)}: no such option; leave it out."
            )
        items = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(item, _PLAIN) for item in items):
            raise ConfigurationError(
                f"optimizer.{key}={shown(value)}: should be a plain value, or a list of plain "
                "values."
            )
        kind = _KINDS.get(key, _OTHER) if "." not in name else _OTHER
        _check_type(key, value, kind)


def _check_type(key: str, value: Any, kind: Any) -> None:
    try:
        pydantic.TypeAdapter(kind).validate_python(value)
    except pydantic.ValidationError as error:
        raise ConfigurationError(refusal.line(error, value, f"optimizer.{key}")) from None
