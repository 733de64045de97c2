"""Group Privacy: sample, clip and add up record slots; a user owns k of them.

Algorithm 1 of Chua et al., arXiv 2406.14322; ELS in Charles et al., arXiv 2407.07737.

Every user has exactly k record slots, filled once. With B = cohort * k expected slots in a round:

For t in 1..T:
    S ~ each of the N k slots independently with probability q = B / (N k)
    release (sum over x in S of clip(update of x, C) + N(0, (z C)^2 I)) / B

One user owns k slots, each with a coin of its own, so the number of a user's hits is Binomial(k, q)
and a round costs a mixture of Gaussians with those weights (Ganesh, arXiv 2401.10294), or, more
loosely, the group lemma over the slot-level guarantee (Vadhan 2017, Lemma 2.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from userdp.server.mechanisms.base import RECORD_SLOT, Mechanism
from userdp.sim.common import rng
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.protocol.contract import Assignment


@dataclass(frozen=True, kw_only=True)
class GroupPrivacy(Mechanism):
    """The privacy unit is the user, the clipped unit one of the user's k record slots.

    Raises:
        ConfigurationError: as `Mechanism`, or there is no cap k on a user's records.
    """

    unit: ClassVar[str] = RECORD_SLOT
    compared: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.records_per_user == 0:
            raise ConfigurationError(
                "strategy.records_per_user=all: Group Privacy needs a cap of at least 1."
            )
        super().__post_init__()

    @property
    def group_size(self) -> int:
        """k: slots of one user."""
        return self.records_per_user

    def draw(self, stream: rng.SecretStream, number: int) -> Assignment:
        """The slots whose coin shows heads; slot s of user u has position u k + s."""
        users, slots = divmod(self._heads(stream), self.group_size)
        return Assignment(users=users, slots=slots)

    def console(self) -> str:
        """One line for the terminal: what a round does."""
        return f"Group Privacy: {self.records_per_user} record slots a user, each clipped"
