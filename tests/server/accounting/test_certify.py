"""Certified epsilons: golden numbers, laws of every accountant, compositions and budgets."""

import math
import subprocess
import sys

import pytest

from helpers.exact_privacy import event
from userdp.server import accounting


def spent(rate, noise, group_size, rounds, delta, **options) -> accounting.Epsilon:
    return accounting.epsilon([(event(rate, noise, group_size), rounds)], delta, **options)


GOLDEN = [  # accountant, group bound, rate, noise, group size, rounds, delta, value
    ("pld", "mixture", 0.01, 1.0, 1, 1000, 1e-6, 2.1245),
    ("prv", "mixture", 0.01, 1.0, 1, 1000, 1e-6, 2.135),
    ("rdp", "mixture", 0.01, 1.0, 1, 1000, 1e-6, 2.437),
    ("pld", "mixture", 0.01, 1.0, 1, 500, 1e-5, 1.3261),
    ("prv", "mixture", 0.01, 1.0, 1, 500, 1e-5, 1.3362),
    ("rdp", "mixture", 0.01, 1.0, 1, 500, 1e-5, 1.653),
    ("pld", "mixture", 0.01, 1.0, 4, 1000, 1e-6, 10.016),
    ("pld", "mixture", 0.01, 4.0, 10, 1000, 1e-6, 3.889),
    ("pld", "mixture", 0.001, 1.0, 10, 2000, 1e-6, 3.035),
    ("pld", "lemma", 0.01, 1.0, 4, 1000, 1e-6, 13.80),
    ("pld", "mixture", 0.01, 4.0, 5, 500, 1e-5, 1.089),
    ("rdp", "lemma", 0.01, 4.0, 5, 500, 1e-5, 1.217),
    ("pld", "mixture", 0.032, 1.266, 1, 500, 1e-5, 2.99843),
    ("pld", "mixture", 0.032, 5.104, 5, 500, 1e-5, 2.99990),
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("row", GOLDEN)
def test_golden_numbers(row):
    accountant, group_bound, *mechanism, value = row
    bounds = spent(*mechanism, accountant=accountant, group_bound=group_bound)
    assert bounds.upper == pytest.approx(value, rel=0.01)
    assert bounds.upper >= bounds.lower > 0


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("accountant", ["pld", "rdp", "prv"])
def test_laws_of_every_accountant(accountant):
    def upper(rate=0.02, noise=1.5, rounds=300, delta=1e-6):
        return spent(rate, noise, 1, rounds, delta, accountant=accountant).upper

    assert upper(rounds=0) == 0
    base = upper()
    assert base >= spent(0.02, 1.5, 1, 300, 1e-6).lower > 0
    assert upper(rounds=200) < base < upper(rounds=400)
    assert upper(rate=0.015) < base < upper(rate=0.025)
    assert upper(noise=1.7) < base < upper(noise=1.3)
    assert upper(delta=1e-5) < base < upper(delta=1e-7)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("accountant", ["pld", "rdp", "prv"])
def test_laws_of_groups(accountant):
    def upper(group_size, group_bound="lemma"):
        by = accountant if group_bound == "lemma" else "pld"
        return spent(0.01, 5.0, group_size, 400, 1e-6, accountant=by, group_bound=group_bound).upper

    assert upper(1) < upper(3) < upper(6)
    assert upper(1, "mixture") < upper(3, "mixture") < upper(6, "mixture")
    assert upper(1) >= upper(1, "mixture")
    assert upper(3) >= upper(3, "mixture")
    slot = accounting.slot_epsilon([(event(0.01, 5.0, 6), 400)], 1e-6, accountant=accountant)
    assert slot == spent(0.01, 5.0, 1, 400, 1e-6, accountant=accountant)
    assert slot.upper < upper(6, "mixture")


def test_composition_is_a_multiset():
    first, second = event(0.01, 1.0), event(0.05, 3.0, 4)
    together = accounting.epsilon([(first, 300), (second, 100)], 1e-6)
    assert together == accounting.epsilon([(second, 60), (first, 300), (second, 40)], 1e-6)
    assert together.lower > accounting.epsilon([(first, 300)], 1e-6).upper
    assert together.lower > accounting.epsilon([(second, 100)], 1e-6).upper
    assert accounting.epsilon([], 1e-6) == accounting.Epsilon(lower=0.0, upper=0.0)


def test_more_deltas_are_the_same_claims():
    composition = [(event(0.02, 2.0), 200)]
    several = accounting.epsilon_at_deltas(composition, [1e-5, 1e-8])
    assert several == {d: accounting.epsilon(composition, d) for d in (1e-5, 1e-8)}


@pytest.mark.parametrize("options", [{}, {"group_bound": "lemma"}])
def test_affordable_rounds_are_the_last_within_the_budget(options):
    one, budget = event(0.02, 4.0, 3), 0.8
    rounds = accounting.affordable_rounds(one, budget, 1e-6, 5000, **options)
    assert 0 < rounds < 5000
    assert accounting.epsilon([(one, rounds)], 1e-6, **options).upper <= budget
    assert accounting.epsilon([(one, rounds + 1)], 1e-6, **options).upper > budget
    assert accounting.affordable_rounds(one, budget, 1e-6, rounds, **options) == rounds
    assert accounting.affordable_rounds(one, 0.0, 1e-6, 10, **options) == 0


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("accountant", ["pld", "rdp", "prv"])
def test_curve_is_never_below_the_truth_and_exact_at_its_end(accountant):
    one, rounds = event(0.02, 1.5), 400
    upper = accounting.epsilon_curve(one, rounds, 1e-6, accountant=accountant)
    values = [upper(count) for count in range(rounds + 1)]
    assert values == sorted(values)
    assert values[0] == 0
    assert values[-1] == spent(0.02, 1.5, 1, rounds, 1e-6, accountant=accountant).upper
    for count in (1, 7, 150, 333, 399):
        assert values[count] >= spent(0.02, 1.5, 1, count, 1e-6).lower
    with pytest.raises(ValueError, match="401"):
        upper(rounds + 1)


def test_refused_combinations_say_why():
    group, one = event(0.01, 1.0, 4), event(0.01, 1.0)
    for accountant in ("prv", "rdp"):
        reason = accounting.available(accountant, "mixture", group)
        assert "mixture" in reason
        with pytest.raises(ValueError, match="no mixture"):
            accounting.epsilon([(group, 1)], 1e-6, accountant=accountant)
        assert accounting.available(accountant, "lemma", group) is None
        assert accounting.available(accountant, "mixture", one) is None
    assert accounting.available("pld", "mixture", group) is None
    assert "loose" in accounting.available("pld", "loose", one)


def test_arguments_out_of_range_are_refused():
    one = event(0.01, 1.0)
    for delta in (0.0, 1e-12, 1.0, math.nan):
        with pytest.raises(ValueError, match="delta"):
            accounting.epsilon([(one, 1)], delta)
    for count in (-1, 1.5, True):
        with pytest.raises(ValueError, match="rounds"):
            accounting.epsilon([(one, count)], 1e-6)
    with pytest.raises(ValueError, match="epsilon"):
        accounting.affordable_rounds(one, math.nan, 1e-6, 10)
    with pytest.raises(ValueError, match="accountant"):
        accounting.epsilon([], 1e-6, accountant="gdp")


def test_import_is_light():
    code = "import sys; import userdp.server.accounting; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "opacus", "flwr", "dp_accounting"} & set(loaded)
