"""Claims: what a ledger's rounds cost, and that an estimate is none."""

from __future__ import annotations

import math

import pytest

from helpers import statements
from helpers.statements import EVENT, GROUP, HEADER, NON_PRIVATE
from userdp.server import accounting
from userdp.server.statement import claim
from userdp.sim.common.errors import ConfigurationError

DELTA = HEADER["delta"]
ACCOUNTED = {**HEADER, "accountant": "pld"}


def event(header):
    return accounting.RoundEvent.from_dict(header["event"])


def test_the_figures_are_the_accountants_at_three_deltas():
    figures = claim.from_ledger(ACCOUNTED, [(EVENT, 30)])
    figure = accounting.epsilon([(event(ACCOUNTED), 30)], DELTA)
    assert (figures.epsilon, figures.epsilon_lower) == (figure.upper, figure.lower)
    assert figures.certified
    assert (figures.accountant, figures.slot_epsilon) == ("pld", None)
    assert sorted(figures.epsilon_at_deltas) == pytest.approx([DELTA / 100, DELTA / 10, DELTA])
    for delta, epsilon in figures.epsilon_at_deltas.items():
        assert epsilon == accounting.epsilon([(event(ACCOUNTED), 30)], delta).upper


def test_deltas_that_double_precision_cannot_certify_are_left_out():
    figures = claim.from_ledger({**ACCOUNTED, "delta": 5e-10}, [(EVENT, 30)])
    assert sorted(figures.epsilon_at_deltas) == pytest.approx([5e-11, 5e-10])


@pytest.mark.parametrize(("rounds", "events"), [(1, 1), (10, 1), (11, 2), (30, 3)])
def test_rounds_that_share_an_event_are_counted_once_and_rounded_up(rounds, events):
    figures = claim.from_ledger({**ACCOUNTED, "rounds_per_event": 10}, [(EVENT, rounds)])
    assert figures.epsilon == accounting.epsilon([(event(ACCOUNTED), events)], DELTA).upper


def test_distinct_events_compose():
    other = {**EVENT, "sampling_rate": 0.02}
    figures = claim.from_ledger(ACCOUNTED, [(EVENT, 30), (other, 10)])
    alone = claim.from_ledger(ACCOUNTED, [(EVENT, 30)])
    assert figures.epsilon > alone.epsilon


def test_where_slots_are_clipped_the_claim_has_the_epsilon_of_one_slot():
    header = {**GROUP, "accountant": "pld", "event": {**EVENT, "group_size": 3}}
    figures = claim.from_ledger(header, [(header["event"], 30)])
    single = accounting.epsilon([(event(header).single_slot(), 30)], DELTA).upper
    assert figures.slot_epsilon == pytest.approx(single, rel=1e-9)
    assert figures.slot_epsilon < figures.epsilon
    lemma = claim.from_ledger({**header, "group_bound": "lemma"}, [(header["event"], 30)])
    assert lemma.epsilon > figures.epsilon


def test_without_noise_epsilon_is_infinite_at_every_delta():
    header = {**NON_PRIVATE, "accountant": "pld"}
    figures = claim.from_ledger(header, [(header["event"], 30)])
    assert figures.epsilon == figures.epsilon_lower == math.inf
    assert figures.epsilon_at_deltas == {}


def test_an_unknown_accountant_a_missing_field_and_a_wrong_event_are_refused():
    with pytest.raises(ConfigurationError, match="plt"):
        claim.from_ledger({**ACCOUNTED, "accountant": "plt"}, [(EVENT, 1)])
    with pytest.raises(KeyError, match="accountant"):
        claim.from_ledger(HEADER, [(EVENT, 1)])
    with pytest.raises(ValueError, match="sampling_rate"):
        claim.from_ledger(ACCOUNTED, [({**EVENT, "sampling_rate": 2.0}, 1)])


def test_an_estimate_is_no_claim():
    with pytest.raises(ValueError, match="edgeworth"):
        statements.claim(accountant="edgeworth", certified=False)
    with pytest.raises(ValueError, match="epsilon_lower"):
        statements.claim(epsilon=1.0, epsilon_lower=1.1, accountant="pld")
