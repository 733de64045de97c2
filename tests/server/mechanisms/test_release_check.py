"""A release of a mechanism outside the table is held to the noise that its queries state."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from userdp.server.mechanisms import release_check
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.common import rng
from userdp.sim.common.errors import StoppedError
from userdp.sim.protocol.cohort_sum import CohortSum

PUBLIC = {"users": 40, "cohort": 8, "clip_norm": 0.7, "noise_multiplier": 1.3}
COHORT = CohortSum(np.linspace(-1, 1, 400))


class Foreign(UserWise):
    """Its release is scaled noise; ``share`` of what it states."""

    share = 1.0

    def release(self, cohort, stream, number):
        stated = super().release(cohort, stream, number)
        exact = cohort.total / self.expected_units
        return dataclasses.replace(stated, mean=exact + self.share * (stated.mean - exact))


class Weak(Foreign):
    share = 0.4


class Posing(Weak):
    """Says that it is a mechanism of the table."""

    @property
    def __class__(self):
        return UserWise


class Halting(Weak):
    share = 0.0

    def release(self, cohort, stream, number):
        return dataclasses.replace(super().release(cohort, stream, number), halted=True)


class Silent(Halting):
    """Halts, and releases nothing at all."""

    def release(self, cohort, stream, number):
        halted = super().release(cohort, stream, number)
        return dataclasses.replace(halted, mean=np.zeros(len(cohort.total)))


def check(kind):
    mechanism = kind(records_per_user=3, **PUBLIC)
    release = mechanism.release(COHORT, rng.Secrets(replay_seed=1).stream("noise", 1), 1)
    release_check.check(mechanism, COHORT, release)


@pytest.mark.parametrize("kind", [Weak, Posing, Halting])
def test_a_release_with_too_little_noise_is_refused_whatever_it_says_it_is(kind):
    assert isinstance(Posing(records_per_user=3, **PUBLIC), UserWise)
    with pytest.raises(StoppedError, match=rf"strategy\.name={kind.__name__}: .*noise of 0\.91"):
        check(kind)


@pytest.mark.parametrize("kind", [UserWise, Foreign, Silent])
def test_a_release_with_the_stated_noise_or_nothing_passes(kind):
    check(kind)
