"""The second opinion is an upper value of its own: above our certified lower one, and near it."""

from __future__ import annotations

import pytest

from userdp.server import accounting
from userdp.server.accounting import RoundEvent, second_opinion

PLAIN = RoundEvent(sampling_rate=0.1, noise_multiplier=1.0)


@pytest.mark.parametrize(
    "event",
    [
        PLAIN,
        RoundEvent(sampling_rate=1.0, noise_multiplier=3.0),
        RoundEvent(sampling_rate=0.05, noise_multiplier=1.0, group_size=3),
        RoundEvent(sampling_rate=0.1, noise_multiplier=1.0, population=100, cohort_cap=12),
    ],
)
def test_it_lies_above_the_certified_lower_value_and_not_far(event):
    ours = accounting.epsilon([(event, 20)], 1e-4)
    told = second_opinion.epsilon([(event, 20)], 1e-4)
    assert told is not None
    assert ours.lower <= told <= 1.05 * ours.upper


def test_it_counts_every_event():
    one, both = (second_opinion.epsilon(parts, 1e-4) for parts in ([(PLAIN, 5)], [(PLAIN, 10)]))
    assert one is not None
    assert both is not None
    assert both > 1.2 * one


def test_there_is_none_where_a_guarantee_may_fail():
    failing = RoundEvent(sampling_rate=0.1, noise_multiplier=1.0, failure_probability=1e-9)
    assert second_opinion.epsilon([(PLAIN, 3), (failing, 2)], 1e-4) is None
