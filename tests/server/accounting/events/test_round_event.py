"""Events: ranges, their form in the ledger, how many of a user's slots are sampled."""

import math

import numpy as np
import pytest
from scipy import stats

from helpers.exact_privacy import event
from userdp.server import accounting


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"sampling_rate": value}, "sampling_rate") for value in (0, -0.1, 1.1, math.nan, math.inf)]
    + [({"noise_multiplier": value}, "noise_multiplier") for value in (0, -1, math.nan, math.inf)]
    + [({"group_size": value}, "group_size") for value in (0, -1, 2.0, True)],
)
def test_events_out_of_range_are_refused(changes, name):
    with pytest.raises(ValueError, match=name):
        accounting.RoundEvent(**{"sampling_rate": 0.1, "noise_multiplier": 1.0, **changes})


def test_events_survive_the_ledger():
    one = event(0.01, 1.0, 4)
    assert accounting.RoundEvent.from_dict(one.to_dict()) == one
    assert one.single_slot() == event(0.01, 1.0)
    for wrong in ({"sampling_rate": 0.1}, {**one.to_dict(), "clip": 1.0}):
        with pytest.raises(ValueError, match="group_size"):
            accounting.RoundEvent.from_dict(wrong)


@pytest.mark.parametrize(("rate", "k"), [(0.01, 4), (0.3, 50), (1e-9, 3), (1.0, 5)])
def test_hits_are_binomial(rate, k):
    hits = event(rate, 1.0, k).hits()
    np.testing.assert_allclose(hits, stats.binom.pmf(range(k + 1), k, rate), rtol=1e-11)
    assert math.fsum(hits) == pytest.approx(1, abs=1e-14)
