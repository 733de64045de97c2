"""The table of metrics: how sums over clients become a round's metrics, and declared metrics."""

from __future__ import annotations

import pytest

from userdp.sim.tracking import metric_kinds
from userdp.sim.tracking.metric_kinds import Kind, Metric


def test_sums_become_means_over_the_units_where_the_table_says_so():
    sums = {"cohort_size": 4, "train_loss": 10.0, "clipped_fraction": 1, "tokens_used": 12}
    expected = {"cohort_size": 4, "train_loss": 2.5, "clipped_fraction": 0.25, "tokens_used": 12}
    assert metric_kinds.from_sums(sums) == expected


def test_an_empty_cohort_has_means_of_zero():
    assert metric_kinds.from_sums({"cohort_size": 0, "train_loss": 0.0})["train_loss"] == 0.0


def test_a_sum_without_a_line_in_the_table_is_refused():
    with pytest.raises(ValueError, match="'unheard_of' has no declared type"):
        metric_kinds.from_sums({"cohort_size": 1, "unheard_of": 1.0})


def test_a_declared_metric_keeps_its_first_kind(monkeypatch):
    monkeypatch.setattr(metric_kinds, "METRICS", dict(metric_kinds.METRICS))
    metric_kinds.declare("mine", Metric(Kind.RELEASED))
    metric_kinds.declare("mine", Metric(Kind.RELEASED))
    assert metric_kinds.kind("mine") is Kind.RELEASED
    with pytest.raises(ValueError, match="'mine' is declared already, as released"):
        metric_kinds.declare("mine", Metric(Kind.PUBLIC))
