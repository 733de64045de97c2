"""The baseline without clip and noise has no event and says that it is not private."""

from __future__ import annotations

import math

import pytest

from userdp.server.mechanisms.adaptive_clip import AdaptiveClip
from userdp.server.mechanisms.non_private import NonPrivate
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.common.errors import ConfigurationError

USER = UserWise(users=40, cohort=8, records_per_user=3, clip_norm=0.7, noise_multiplier=1.3)
NONE = NonPrivate(users=40, cohort=8, records_per_user=3)


def test_without_noise_there_is_no_event_and_the_class_says_so():
    assert not NONE.private
    assert USER.private
    assert NONE.noise_std == 0.0
    assert NONE.clip_norm == math.inf
    assert NONE.ledger_event()["noise_multiplier"] == 0.0
    with pytest.raises(ValueError, match="no privacy event"):
        NONE.event()


RULE = AdaptiveClip(quantile=0.5, learning_rate=0.2, bit_noise=2.0)


def test_a_run_that_clips_nothing_refuses_to_adapt():
    with pytest.raises(ConfigurationError, match="clip_quantile"):
        NonPrivate(users=6, cohort=3, records_per_user=2, adaptive=RULE)
