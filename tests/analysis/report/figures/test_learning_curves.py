"""Learning curves: the score at every round, over seeds."""

from __future__ import annotations

from helpers.figures import numbers
from userdp.analysis.report.figures import learning_curves


def test_a_curve_has_the_median_and_range_of_the_seeds_at_every_round(sections):
    plot = next(p for p in sections["learning"].plots if p.name == "learning_epsilon_1")
    figures = numbers(plot)
    # From 400 in round 0 straight to 116, 121 and 129 in round 4.
    assert figures["user_wise", 0] == (400.0, 400.0, 400.0, 3)
    assert figures["user_wise", 2] == (260.5, 258.0, 264.5, 3)
    assert figures["user_wise", 4] == (121.0, 116.0, 129.0, 3)
    assert figures["non-private", 4] == (60.0, 60.0, 60.0, 1)


def test_a_round_that_only_some_runs_scored_has_their_spread():
    [first, second] = learning_curves.over_seeds([{0: 3.0, 2: 1.0}, {0: 5.0}])
    assert (first[0], first[1].median, first[1].count) == (0, 4.0, 2)
    assert (second[0], second[1].median, second[1].count) == (2, 1.0, 1)
