"""Translates the configurations and headers in run folders of older versions into today's.

They name classes by their dotted paths, and lack options that newer versions added. Every path that
has moved, and the value by which an older run goes on, is in a table of this module, so that
`verify`, `report` and `resume` still read those folders.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED: Mapping[str, str] = {
    "server.adam_bc.AdamBC": "userdp.server.optimizers.adam_bc.AdamBC",
    "server.scale_then_privatize.ScaleThenPrivatize": (
        "userdp.server.optimizers.scale_then_privatize.ScaleThenPrivatize"
    ),
    "server.user_wise.UserWise": "user_wise",
    "server.group_privacy.GroupPrivacy": "group_privacy",
    "server.concentrated.Concentrated": "concentrated",
    "server.matrix_factorization.MatrixFactorization": "matrix_factorization",
    "server.non_private.NonPrivate": "non_private",
}

# Options that a mechanism got later: their value in a configuration that lacks them.
ADDED_OPTIONS: Mapping[str, Mapping[str, Any]] = {"matrix_factorization": {"groups_by": "place"}}


def current(value: Any) -> Any:
    """A copy of nested mappings and lists in which every old name is replaced by today's."""
    if isinstance(value, Mapping):
        return {key: current(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [current(item) for item in value]
    return RENAMED.get(value, value) if isinstance(value, str) else value


def completed(config: Any) -> Any:
    """A stored configuration in today's names, with the options that older versions lacked."""
    values = current(config)
    strategy = values.get("strategy") if isinstance(values, dict) else None
    if isinstance(strategy, dict):
        values["strategy"] = {**ADDED_OPTIONS.get(str(strategy.get("name")), {}), **strategy}
    return values
