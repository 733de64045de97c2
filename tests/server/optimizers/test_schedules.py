"""Learning-rate schedules by their closed forms."""

from __future__ import annotations

import math

import pytest

from userdp.server.optimizers import schedules
from userdp.sim.common.errors import ConfigurationError


def test_schedules_by_closed_form():
    def factors(name, warmup, rounds):
        factor = schedules.learning_rate_factor(name, warmup, rounds)
        return [factor(t) for t in range(rounds)]

    assert factors("constant", 0, 3) == [1, 1, 1]
    assert factors("constant", 3, 5) == [0.25, 0.5, 0.75, 1, 1]
    assert factors("linear", 0, 4) == [1, 0.75, 0.5, 0.25]
    assert factors("linear", 1, 3) == [0.5, 1, 0.5]
    cosine = [(1 + math.cos(math.pi * t / 4)) / 2 for t in range(4)]
    assert factors("cosine", 0, 4) == pytest.approx(cosine)


@pytest.mark.parametrize(
    ("schedule", "warmup", "message"),
    [("step", 0, "schedule.name=step"), ("linear", 6, "warmup=6"), ("linear", -1, "warmup=-1")],
)
def test_a_schedule_that_cannot_be_is_refused(schedule, warmup, message):
    with pytest.raises(ConfigurationError, match=message):
        schedules.learning_rate_factor(schedule, warmup, 5)
