"""One line of an audit: what is claimed, what was measured, and whether the two contradict."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

EPSILON = "epsilon"
USUAL_FAILURE = 0.05  # of the bound that is shown; `Finding.confidence` is that of a verdict


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The outcome of one check.

    A check whose ``confidence`` is None has no random error, or is an estimate that decides
    nothing.
    """

    check: str
    threat: str  # what the adversary knows, in a few words
    quantity: str = EPSILON  # of claim and measurement
    claim: float  # the measurement must not exceed it
    measured: float  # for a bound: at 95 % confidence
    decisive: float | None  # the value that decides, at ``confidence``; None: an estimate
    confidence: float | None
    trials: str  # canaries or trials, in words
    seconds: float
    details: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of_change(
        cls, check: str, threat: str, largest: float, margin: float, trials: str, seconds: float
    ) -> Finding:
        """How far one unit moves a sum, found without noise.

        Args:
            largest: change of the sum by one unit, over C.
            margin: what rounding may add to it.
            trials: how it was found, in words.
        """
        return cls(
            check=check,
            threat=threat,
            quantity="change by one unit / C",
            claim=1.0,
            measured=largest,
            decisive=largest - margin,
            confidence=None,
            trials=trials,
            seconds=seconds,
        )

    @classmethod
    def of_bound(
        cls,
        check: str,
        threat: str,
        quantity: str,
        claim: float,
        bound: Callable[[float], float],
        failure: float,
        trials: str,
        details: Mapping[str, float] | None = None,
    ) -> Finding:
        """A confidence bound, shown at its usual confidence and decided at another.

        Args:
            bound: gives the bound that is wrong with the probability it is called with.
            failure: of the bound that decides.
        """
        return cls(
            check=check,
            threat=threat,
            quantity=quantity,
            claim=claim,
            measured=bound(USUAL_FAILURE),
            decisive=bound(failure),
            confidence=1 - failure,
            trials=trials,
            seconds=0.0,
            details=details or {},
        )

    @property
    def flagged(self) -> bool:
        """Whether the measurement contradicts the claim."""
        return self.decisive is not None and self.decisive > self.claim

    @property
    def verdict(self) -> str:
        """``BROKEN``, ``holds``, or ``estimate`` where it decides nothing."""
        if self.decisive is None:
            return "estimate"
        return "BROKEN" if self.flagged else "holds"

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON values; infinity becomes None."""
        values = asdict(self) | {"flagged": self.flagged, "verdict": self.verdict}
        values["details"] = {name: _finite(value) for name, value in self.details.items()}
        return {name: _finite(value) for name, value in values.items()}


def _finite(value: Any) -> Any:
    """None for infinity, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
