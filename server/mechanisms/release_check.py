"""Holds a mechanism of another package to the noise that its ledger entry states."""

from __future__ import annotations

import numpy as np

from userdp.server.mechanisms.base import Mechanism, Release
from userdp.server.mechanisms.registry import MECHANISMS
from userdp.sim.common.errors import StoppedError
from userdp.sim.protocol.cohort_sum import CohortSum

_SHARE = 0.5  # of the stated standard deviation, below which a release is refused
_ENOUGH = 100  # coordinates from which the mean square of noise cannot be so small by chance


def check(mechanism: Mechanism, cohort: CohortSum, release: Release) -> None:
    """Refuse a release with no noise, or with less than half of what is stated, before it is used.

    Nobody here has read the code of such a mechanism. What its release adds to the exact sum is
    compared with the least noise of its queries, which the ledger has compared with the event. This
    finds noise that was forgotten or scaled wrongly, and proves nothing: the statement names the
    code in its first sentence all the same. Of 100 independent Gaussians, the root mean square is
    below half their standard deviation with a probability under 1e-16.

    Args:
        mechanism: of the round; one of the table is not checked, since its tests are here.
        cohort: the exact sum, (D,).
        release: what the mechanism returned.

    Raises:
        StoppedError: there is too little noise; the round stays spent.
    """
    nothing = release.halted and not np.any(release.mean)  # a figure of the mean is logged
    if nothing or not mechanism.private:
        return
    kind = type(mechanism)  # and not `__class__`, which an object may say as it likes
    if any(MECHANISMS.find(name) is kind for name in MECHANISMS):
        return
    added = np.asarray(release.mean) * mechanism.expected_units - cohort.total
    size = float(np.sqrt(np.mean(np.square(added))))
    stated = min(query.noise_std for query in mechanism.queries())
    least = _SHARE * stated if len(added) >= _ENOUGH else 0.0
    if not size > least:
        raise StoppedError(
            f"strategy.name={kind.__name__}: its release differs from the exact sum by "
            f"{size:.3g} a coordinate, and the ledger says noise of {stated:.3g}; nothing was "
            "released. Mend the mechanism, and start a new run."
        )
