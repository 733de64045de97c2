"""The table of privacy mechanisms: the names that `strategy.name` may have."""

from __future__ import annotations

from userdp.server.mechanisms.base import Mechanism
from userdp.sim.common.foreign_code import CodeNotLoadedError
from userdp.sim.common.table import Table

_ROOM = "userdp.server.mechanisms"

MECHANISMS: Table[type[Mechanism]] = Table(
    "strategy.name",
    {
        "user_wise": f"{_ROOM}.user_wise.UserWise",
        "group_privacy": f"{_ROOM}.group_privacy.GroupPrivacy",
        "concentrated": f"{_ROOM}.concentrated.mechanism.Concentrated",
        "matrix_factorization": f"{_ROOM}.matrix_factorization.mechanism.MatrixFactorization",
        "non_private": f"{_ROOM}.non_private.NonPrivate",
    },
    base=Mechanism,
)


def find(name: str) -> type[Mechanism]:
    """The class of a mechanism, by its name in the table or by a dotted name of another package.

    Raises:
        ConfigurationError: there is none of this name, or it is not a subclass of `Mechanism`.
    """
    return MECHANISMS.find(name)


def describing(name: str) -> type[Mechanism]:
    """As `find`; `Mechanism` itself for one whose code a run folder alone names.

    Raises:
        ConfigurationError: as `find`.
    """
    try:
        return MECHANISMS.find(name)
    except CodeNotLoadedError:
        return Mechanism
