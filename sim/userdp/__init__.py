"""userdp: federated fine-tuning of language models under user-level differential privacy.

>>> import userdp
>>> plan = userdp.plan("privacy.users=10000", "cohort=200", "rounds=100", "privacy.epsilon=2")
>>> plan["epsilon"]["lower"] <= plan["epsilon"]["upper"] <= 2
True
>>> result = userdp.run("rounds=5", "privacy.epsilon=3")              # doctest: +SKIP
>>> result.frame["heldout_perplexity"].dropna()                       # doctest: +SKIP
>>> study = userdp.sweep("privacy.epsilon=1,8", "seed=1,2")           # doctest: +SKIP
>>> study.frame[["privacy.epsilon", "heldout_perplexity"]]            # doctest: +SKIP

This is the import name of the whole project: the folders ``sim``, ``clients``, ``server``,
``analysis`` and ``conf`` of the repository are installed as ``userdp.sim``, ``userdp.clients`` and
so on. Importing it is quick; the functions import torch and other libraries when they need them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from userdp.sim.api import audit as audit
    from userdp.sim.api import compose as compose
    from userdp.sim.api import load as load
    from userdp.sim.api import load_sweep as load_sweep
    from userdp.sim.api import plan as plan
    from userdp.sim.api import report as report
    from userdp.sim.api import run as run
    from userdp.sim.api import sweep as sweep
    from userdp.sim.api import verify as verify
    from userdp.sim.common.errors import ConfigurationError as ConfigurationError
    from userdp.sim.common.errors import StoppedError as StoppedError

_FUNCTIONS = (
    *("audit", "compose", "load", "load_sweep", "plan", "report", "run", "sweep", "verify"),
)
_ERRORS = ("ConfigurationError", "StoppedError")
__all__ = [*_ERRORS, *_FUNCTIONS]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name in _FUNCTIONS:
        from userdp.sim import api

        return getattr(api, name)
    if name in _ERRORS:
        from userdp.sim.common import errors

        return getattr(errors, name)
    raise AttributeError(f"module 'userdp' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
