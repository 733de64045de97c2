"""User-wise DP-SGD: average a user's records, clip, add up.

Algorithm 2 of Chua et al., arXiv 2406.14322; ULS in Charles et al., arXiv 2407.07737.

For t in 1..T:
    U ~ each of N users independently with probability q = m / N
    g_u = clip(mean over u's <= k records of the update, C)
    release (sum of g_u over u in U + N(0, (z C)^2 I)) / m

The average is inside the clip, so the sensitivity is C whatever k: k costs compute, not privacy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from server.mechanism import Mechanism
from sim import rng
from sim.wire import Assignment


@dataclass(frozen=True, kw_only=True)
class UserWise(Mechanism):
    """The privacy unit and the clipped unit are both the user."""

    unit: ClassVar[str] = "user"

    def draw(self, stream: rng.SecretStream) -> Assignment:
        return Assignment(users=self._heads(stream), slots=np.empty(0, np.int64))
