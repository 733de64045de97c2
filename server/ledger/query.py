"""One Gaussian query of a round: name, sensitivity and noise, as the ledger stores them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Query:
    """One Gaussian query of a round's joint release.

    Several queries of one cohort cost one Gaussian of multiplier z with ``1/z^2 = sum 1/z_i^2``:
    divided by their noise, they are one query (Andrew et al., arXiv 1905.03871, section 3).

    Raises:
        ValueError: the sensitivity is not positive, or the noise is negative or not finite.
    """

    name: str
    sensitivity: float  # L2 change by one unit; infinite where nothing is clipped
    noise_std: float  # 0 only in a run that is not private

    def __post_init__(self) -> None:
        if not self.sensitivity > 0:
            raise ValueError(f"Expected {self.name} sensitivity > 0, got {self.sensitivity}.")
        if not (math.isfinite(self.noise_std) and self.noise_std >= 0):
            raise ValueError(f"Expected finite {self.name} noise_std >= 0, got {self.noise_std}.")

    @property
    def precision(self) -> float:
        """``1/z_i^2``, where z_i is the noise multiplier of this query; infinite without noise."""
        return (self.sensitivity / self.noise_std) ** 2 if self.noise_std > 0 else math.inf

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON values; an infinite sensitivity becomes None."""
        sensitivity = self.sensitivity if math.isfinite(self.sensitivity) else None
        return {"name": self.name, "sensitivity": sensitivity, "noise_std": self.noise_std}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Query:
        """The query that `to_dict` described.

        Raises:
            KeyError: a field is missing.
            ValueError: a field is outside its range.
        """
        sensitivity = values["sensitivity"] if values["sensitivity"] is not None else math.inf
        return cls(name=values["name"], sensitivity=sensitivity, noise_std=values["noise_std"])
