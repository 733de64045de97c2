"""The table of accountants, and accountants that other packages bring along."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import optimize

from userdp.server import accounting
from userdp.server.accounting import accountants
from userdp.server.accounting.edgeworth import estimate
from userdp.sim.common.errors import ConfigurationError

EXTENSION = Path(__file__).parents[2] / "extension"  # has `toys.zcdp` and `wrong_toys`
ZCDP, SLOW = "toys.zcdp.ACCOUNTANT", "toys.zcdp.SLOW"


def event(noise: float, group_size: int = 1, rate: float = 1.0, **more) -> accounting.RoundEvent:
    return accounting.RoundEvent(
        sampling_rate=rate, noise_multiplier=noise, group_size=group_size, **more
    )


@pytest.fixture
def outside(monkeypatch):
    """Makes the toy accountant importable, as an installed package is, and a slow copy of it."""
    monkeypatch.syspath_prepend(EXTENSION)
    zcdp = importlib.import_module("toys.zcdp")
    slow = replace(zcdp.ACCOUNTANT, slow=True, library="numpy")
    monkeypatch.setattr(zcdp, "SLOW", slow, raising=False)


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("delta", [1e-5, 1e-9])
def test_an_outside_accountant_prices_what_it_analyses(delta):
    composition = [(event(20.0), 100), (event(12.0), 50)]
    ours = accounting.epsilon(composition, delta)
    zcdp = accounting.epsilon(composition, delta, accountant=ZCDP)
    rho = (100 / 20**2 + 50 / 12**2) / 2
    assert zcdp.lower == ours.lower
    assert zcdp.upper == rho + 2 * math.sqrt(rho * math.log(1 / delta))
    assert ours.upper < zcdp.upper < 1.5 * ours.upper


@pytest.mark.usefixtures("outside")
def test_an_outside_accountant_serves_calibration_and_budgets():
    noise = accounting.calibrate(event(1.0), 100, 2.0, 1e-6, accountant=ZCDP)
    log = math.log(1e6)
    exact = optimize.brentq(lambda rho: rho + 2 * math.sqrt(rho * log) - 2.0, 1e-6, 10)
    assert noise == pytest.approx(math.sqrt(100 / (2 * exact)), rel=0.003)
    assert accounting.affordable_rounds(event(noise), 2.0, 1e-6, 200, accountant=ZCDP) == 100
    curve = accounting.epsilon_curve(event(noise), 100, 1e-6, accountant=ZCDP)
    assert 1.99 < curve(100) <= 2.0


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("name", [ZCDP, SLOW])
def test_an_outside_accountant_takes_groups_by_the_lemma(name):
    options = {"accountant": name, "group_bound": "lemma"}
    grouped = accounting.epsilon([(event(30.0, 4), 10)], 1e-6, **options)
    slot = accounting.slot_epsilon([(event(30.0, 4), 10)], 1e-6, accountant=name)
    assert grouped.upper > max(4 * slot.upper, grouped.lower)
    assert grouped.upper < 8 * slot.upper


@pytest.mark.usefixtures("outside")
def test_an_outside_accountant_refuses_what_it_does_not_analyse():
    for refused, reason in [
        (event(1.0, rate=0.1), "no sampled cohort"),
        (event(1.0, 3), "no mixture"),
        (event(1.0, population=50, cohort_cap=20), "no capped cohort"),
    ]:
        assert reason in accounting.available(ZCDP, "mixture", refused)
        with pytest.raises(ValueError, match=reason):
            accounting.epsilon([(refused, 10)], 1e-6, accountant=ZCDP)
        with pytest.raises(ValueError, match=reason):
            accounting.calibrate(refused, 10, 1.0, 1e-6, accountant=ZCDP)
    assert accounting.available(ZCDP, "lemma", event(1.0, 3)) is None
    assert accounting.available(ZCDP, "mixture", event(1.0)) is None


@pytest.mark.usefixtures("outside")
def test_an_accountant_below_the_certified_bound_is_refused():
    with pytest.raises(ArithmeticError, match="below the certified"):
        accounting.epsilon([(event(1.0), 10)], 1e-6, accountant="wrong_toys.TOO_LOW")


@pytest.mark.usefixtures("outside")
def test_a_failing_round_is_priced_by_an_outside_accountant():
    failing = event(20.0, failure_probability=1e-10)
    spent = accounting.epsilon([(failing, 10)], 1e-6, accountant=ZCDP)
    plain = accounting.epsilon([(failing.unfailing(), 10)], 1e-6, accountant=ZCDP)
    assert spent.lower == 0
    assert plain.upper < spent.upper < 1.01 * plain.upper


def test_an_estimate_is_no_claim():
    for event_ in (event(1.0), event(1.0, 4, 0.1)):
        reason = accounting.available("edgeworth", "mixture", event_)
        assert "only estimates" in reason
        assert "pld, prv, rdp" in reason
    for call in (
        lambda: accounting.epsilon([(event(1.0), 1)], 1e-6, accountant="edgeworth"),
        lambda: accounting.epsilon([], 1e-6, accountant="edgeworth"),
        lambda: accounting.calibrate(event(1.0), 1, 1.0, 1e-6, accountant="edgeworth"),
    ):
        with pytest.raises(ValueError, match="only estimates"):
            call()


def test_an_estimating_entry_finds_noise_and_says_what_it_refuses():
    entry, one = accountants.find("edgeworth"), event(1.0, 2, 0.05)
    assert not entry.certified
    noise = entry.calibrate(one, 300, 2.0, 1e-5, order=3)
    assert noise == estimate.calibrate(one, 300, 2.0, 1e-5, order=3)
    noised = [(event(noise, 2, 0.05), 300)]
    assert 1.99 < entry.estimate(noised, 1e-5, order=3) <= 2.0
    assert accountants.refusal("edgeworth", "mixture", one) is None
    for refused, bound, reason in [
        (event(1.0, failure_probability=1e-9), "mixture", "guarantee may fail"),
        (event(1.0, population=50, cohort_cap=20), "mixture", "no capped cohort"),
        (one, "lemma", "lemma"),
    ]:
        assert reason in accountants.refusal("edgeworth", bound, refused)


def test_unknown_names_are_refused_with_the_known_ones():
    for call in (
        lambda: accounting.available("gdp", "mixture", event(1.0)),
        lambda: accounting.epsilon([], 1e-6, accountant="gdp"),
        lambda: accounting.calibrate(event(1.0), 1, 1.0, 1e-6, accountant="gdp"),
        lambda: accounting.claim_library("gdp", capped=False),
    ):
        with pytest.raises(ConfigurationError, match=r"accountant=gdp.*pld, prv, rdp, edgeworth"):
            call()
    with pytest.raises(ConfigurationError, match="no_such_package"):
        accounting.available("no_such_package.ACCOUNTANT", "mixture", event(1.0))
    with pytest.raises(ConfigurationError, match="expected Accountant"):
        accounting.available("math.pi", "mixture", event(1.0))


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize(
    ("name", "capped", "library"),
    [
        ("pld", False, "userdp"),
        ("pld", True, "dp-accounting"),
        ("prv", False, "opacus"),
        ("rdp", False, "dp-accounting"),
        (ZCDP, False, "userdp"),
        (SLOW, True, "numpy"),
    ],
)
def test_a_claim_names_the_library_that_computed_it(name, capped, library):
    assert accounting.claim_library(name, capped=capped) == library


def test_certified_accountants_of_the_table():
    assert accountants.certified_names() == ("pld", "prv", "rdp")
    assert set(accountants.ACCOUNTANTS) == {*accountants.certified_names(), "edgeworth"}
