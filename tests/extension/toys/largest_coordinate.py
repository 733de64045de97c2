"""User-wise DP-SGD that reports the largest coordinate of every release."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from userdp.server.mechanisms.base import Release
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.common import rng
from userdp.sim.protocol.cohort_sum import CohortSum
from userdp.sim.tracking import metric_kinds

NAME = "largest_coordinate"
metric_kinds.declare(NAME, metric_kinds.Metric(metric_kinds.Kind.RELEASED))


class Reporting(UserWise):
    """Adds the metric, a function of the noised mean alone: it costs no privacy."""

    def release(self, cohort: CohortSum, stream: rng.SecretStream, number: int) -> Release:
        release = super().release(cohort, stream, number)
        largest = float(np.abs(release.mean).max())
        return dataclasses.replace(release, released={**release.released, NAME: largest})

    @classmethod
    def also_released(cls, facts: Mapping[str, Any]) -> Sequence[str]:
        return [*super().also_released(facts), "the largest coordinate of every noised mean"]
