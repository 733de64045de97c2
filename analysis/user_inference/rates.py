"""How well a statistic tells users who trained from users who did not; pure statistics.

A user is called a participant where the statistic lies *above* a threshold. The rates are

- AUC: the probability that a participant's statistic is larger than another user's, ties half;
- TPR at a FPR: the share of participants above the threshold at which at most that share of the
  others is. It is the others' own order statistic, so ties never count as hits.

`bound` is what a certified (epsilon, delta) allows: an (epsilon, delta)-DP training cannot be told
apart with a larger rate (Kairouz, Oh, Viswanath, arXiv 1311.0776, Theorem 2.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from userdp.analysis.audit import bounds

Measure = Callable[[np.ndarray, np.ndarray], float]  # of participants' and others' statistics
LEVEL = 0.95  # of an interval
_ROUNDING = 1e-9  # of a product that should be a whole number


@dataclass(frozen=True)
class Estimate:
    """A rate with its bootstrap interval."""

    value: float
    low: float
    high: float


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """The share of pairs (participant, other) in which the participant's is larger, ties half.

    Args:
        members: (participants,) statistics, at least one.
        others: (other users,) statistics, at least one.
    """
    ordered = np.sort(others)
    below = np.searchsorted(ordered, members, side="left")
    not_above = np.searchsorted(ordered, members, side="right")
    return float((below + not_above).sum()) / (2 * len(members) * len(others))


def threshold(others: np.ndarray, fpr: float) -> float:
    """The smallest statistic of another user above which at most a share ``fpr`` of them lies.

    Minus infinity where all of them may.

    Args:
        others: (other users,) statistics, at least one.
    """
    allowed = math.floor(fpr * len(others) + _ROUNDING)
    return -math.inf if allowed >= len(others) else float(np.sort(others)[-1 - allowed])


def tpr(members: np.ndarray, others: np.ndarray, fpr: float) -> float:
    """The share of participants above the threshold of `threshold`.

    Args:
        members: (participants,) statistics, at least one.
        others: (other users,) statistics, at least one.
    """
    return float(np.mean(members > threshold(others, fpr)))


def bound(fpr: float, epsilon: float, delta: float) -> float:
    """The largest TPR at this FPR against an (epsilon, delta)-DP training; 1 for no guarantee."""
    if math.isinf(epsilon):
        return 1.0
    few = math.exp(min(epsilon, 700.0)) * fpr + delta
    many = 1 - math.exp(-epsilon) * (1 - delta - fpr)
    return max(0.0, min(1.0, few, many))


def bootstrapped(
    measure: Measure,
    members: np.ndarray,
    others: np.ndarray,
    source: np.random.Generator,
    resamples: int,
) -> Estimate:
    """A rate and the percentile interval of its bootstrap over users.

    Participants and others are drawn anew with replacement, each from their own side, and the rate
    with its threshold is computed from what was drawn. The interval covers the choice of users, and
    not the randomness of a second training.

    Args:
        measure: from the statistics of both sides to a rate.
        members: (participants,) statistics.
        others: (other users,) statistics.
        resamples: number of draws.
    """
    drawn = [
        measure(source.choice(members, len(members)), source.choice(others, len(others)))
        for _ in range(resamples)
    ]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(measure(members, others), float(low), float(high))


def exceeds(
    members: np.ndarray, others: np.ndarray, *, fpr: float, epsilon: float, delta: float
) -> bool:
    """Whether TPR and FPR at the threshold contradict (epsilon, delta) beyond sampling error.

    The TPR's lower and the FPR's upper end of Clopper-Pearson intervals, each wrong with a
    probability of (1 - `LEVEL`) / 2, are held to `bound`.
    """
    cut, failure = threshold(others, fpr), (1 - LEVEL) / 2
    hits, alarms = int(np.sum(members > cut)), int(np.sum(others > cut))
    least = 1 - bounds.clopper_pearson_upper(len(members) - hits, len(members), failure)
    most = bounds.clopper_pearson_upper(alarms, len(others), failure)
    return least > bound(most, epsilon, delta)
