"""Translates the class paths in run folders of older versions into today's names.

Older configurations and ledger headers name classes by their dotted paths. Every path that has
moved is in this table, so that `verify`, `report` and `resume` still read those folders.
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


def current(value: Any) -> Any:
    """A copy of nested mappings and lists in which every old name is replaced by today's."""
    if isinstance(value, Mapping):
        return {key: current(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [current(item) for item in value]
    return RENAMED.get(value, value) if isinstance(value, str) else value
