"""Curves of the accountants: recomputed from the statement, equal to what the accountants say."""

from __future__ import annotations

import pytest

from helpers import run_folders
from helpers.figures import numbers
from userdp.analysis.report.figures import epsilon_by_round
from userdp.server import accounting
from userdp.server.accounting import accountants


def test_the_accountants_curve_ends_at_what_the_mechanism_costs(sections):
    plot = next(p for p in sections["accountants"].plots if p.name.endswith("user_wise"))
    figures = numbers(plot)
    assert figures["PLD", 4.0][0] == run_folders.certified_epsilon(4)
    assert figures["PLD", 1.0][0] == run_folders.certified_epsilon(1)
    assert figures["RDP", 4.0][0] > figures["PLD", 4.0][0]


def test_a_statement_of_slots_is_accounted_as_a_group():
    statement = run_folders.privacy_statement(strategy="user_wise", epsilon=1.0, k=4, rounds=1)
    assert epsilon_by_round.event_of(statement).group_size == 1
    assert epsilon_by_round.event_of(statement | {"clipped_unit": "record_slot"}).group_size == 4


def test_there_is_a_line_for_every_certified_accountant(sections):
    plot = next(p for p in sections["accountants"].plots if p.name.endswith("user_wise"))
    lines = {name for name, *_ in plot.rows} - {"the statement's claim"}
    assert lines == {name.upper() for name in accountants.certified_names()}


@pytest.mark.slow
def test_the_caption_says_how_each_accountant_joins_the_slots_of_a_user():
    event = accounting.RoundEvent(sampling_rate=0.1, noise_multiplier=1.0, group_size=4)
    statement = run_folders.privacy_statement(strategy="group_privacy", epsilon=1.0, k=4, rounds=4)
    lines = epsilon_by_round._accountant_lines(event, statement)
    run = type("Run", (), {"name": "a", "statement": statement})
    note = epsilon_by_round._parameters_note(run, event, lines)
    assert "4 slots a user, joined in PLD by their exact mixture" in note
    assert "in PRV and RDP by the group lemma, which is loose" in note


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
def test_an_accountant_without_mixtures_is_shown_by_the_group_lemma(accountant):
    event = accounting.RoundEvent(sampling_rate=0.1, noise_multiplier=4.0, group_size=2)
    statement = {"delta": 1e-5}
    [(_, by_lemma)] = epsilon_by_round.curve(event, [4], statement, accountant)
    expected = accounting.epsilon([(event, 4)], 1e-5, accountant=accountant, group_bound="lemma")
    assert by_lemma == expected.upper
