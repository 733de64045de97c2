"""Decides whether code of another package may be loaded where a run folder names it.

A configuration on the command line is its user's own: a dotted name in it may lead to any installed
package. A run folder may come from anywhere, and importing a module runs it. So the commands that
read one (``run resume=``, ``verify``, ``report``) load code outside userdp and torch.optim only if
the command itself names it too, or if the environment variable ``USERDP_CODE`` lists its package:

    USERDP_CODE=my_package,other_package userdp verify runs/1
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator
from contextvars import ContextVar

from userdp.sim.common.errors import ConfigurationError

VARIABLE = "USERDP_CODE"
_INSIDE = ("userdp.", "torch.optim.")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
# Names that may be loaded where a run folder gives them; None where no run folder is read.
_named: ContextVar[Collection[str] | None] = ContextVar("named", default=None)


class CodeNotLoadedError(ConfigurationError):
    """A run folder names code of another package, which was not asked for."""


def is_dotted(name: str) -> bool:
    """Whether the text is ``package.module.attribute`` and nothing else.

    >>> is_dotted("toys.lion.Lion"), is_dotted("gold (epsilon 0.1)"), is_dotted("os.system()")
    (True, False, False)
    """
    return _DOTTED.fullmatch(name) is not None


def is_foreign(name: str) -> bool:
    """Whether a dotted name leads outside userdp and the optimisers of torch.

    >>> is_foreign("toys.lion.Lion"), is_foreign("torch.hub.load"), is_foreign("torch.optim.Adam")
    (True, True, False)
    """
    return "." in name and not name.startswith(_INSIDE)


@contextlib.contextmanager
def named_by_a_run_folder(also_named: Collection[str] = ()) -> Iterator[None]:
    """Within this block, `check` refuses foreign names that nobody asked for.

    Args:
        also_named: names that the user has given beside the run folder.
    """
    token = _named.set(frozenset(also_named))
    try:
        yield
    finally:
        _named.reset(token)


def may_load(name: str) -> bool:
    """Whether the code of this name may be imported here."""
    named = _named.get()
    if named is None or not is_foreign(name) or name in named:
        return True
    allowed = [item.strip() for item in os.environ.get(VARIABLE, "").split(",")]
    return name.partition(".")[0] in allowed


def check(setting: str, name: str) -> None:
    """Refuse to load code that only a run folder names.

    Raises:
        CodeNotLoadedError: names what would allow it.
    """
    if not may_load(name):
        raise CodeNotLoadedError(
            f"{setting}={name}: the run folder names code of another package, which is not loaded "
            f"unasked; set {VARIABLE}={name.partition('.')[0]} if you trust it."
        )
