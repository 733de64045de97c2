"""Resolves interpolations of a configuration; an error names the field that holds the wrong one."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.common.plain_text import shown

_CYCLE = "it refers to itself"


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, all interpolations resolved.

    Raises:
        ConfigurationError: names the first field whose interpolation cannot be resolved.
    """
    try:
        values: Any = OmegaConf.to_container(config, resolve=True)
    except (OmegaConfBaseException, RecursionError, ValueError, TypeError) as error:
        raise ConfigurationError(_line(config, error)) from None
    return dict(values)


def resolve(config: DictConfig) -> None:
    """Replace all interpolations of a configuration by their values.

    Raises:
        ConfigurationError: as `plain`.
    """
    try:
        OmegaConf.resolve(config)
    except (OmegaConfBaseException, RecursionError, ValueError, TypeError) as error:
        raise ConfigurationError(_line(config, error)) from None


def _line(config: DictConfig, error: Exception) -> str:
    name, raw = _unresolved(config, "") or ("the configuration", "")
    value = f"={shown(raw)}" if raw else ""
    return (
        f"{name}{value}: cannot be resolved ({_reason(error)}); give a value, or set what it "
        "refers to."
    )


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return _CYCLE
    first = (str(error).splitlines() or [type(error).__name__])[0]
    if "recursion" in first.lower():
        return _CYCLE
    if "GrammarParse" in first or "mismatched input" in first:
        return "it is not well formed"
    return shown(first.strip())


def _unresolved(node: Any, name: str) -> tuple[str, str] | None:
    """The dotted name and the raw text of the first field that cannot be resolved."""
    if not OmegaConf.is_config(node) or node._is_none() or node._is_missing():
        return None
    keys = range(len(node)) if isinstance(node, ListConfig) else list(node.keys())
    for key in keys:
        inner = f"{name}.{key}" if name else str(key)
        child = node._get_node(key)
        if child is not None and child._is_interpolation():
            try:
                node[key]
            except Exception:  # whatever a resolver raises
                return inner, str(child._value())
        elif OmegaConf.is_config(child) and (found := _unresolved(child, inner)) is not None:
            return found
    return None
