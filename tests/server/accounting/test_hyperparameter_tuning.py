"""Privacy cost of a sweep, against published figures and the order between them."""

from __future__ import annotations

import pytest

from userdp.server import accounting
from userdp.server.accounting import hyperparameter_tuning
from userdp.server.accounting.events import RoundEvent

RECORD = RoundEvent(sampling_rate=0.01, noise_multiplier=1.0)  # G4: T = 1000, delta = 1e-6
GROUP = RoundEvent(sampling_rate=0.01, noise_multiplier=4.0, group_size=5)


def one_run(**options: str) -> float:
    return accounting.epsilon([(RECORD, 1000)], 1e-6, **options).upper


@pytest.mark.parametrize(("accountant", "published"), [("rdp", 7.414), ("pld", 6.907)])
def test_ten_runs_composed(accountant, published):
    spent = hyperparameter_tuning.composed(RECORD, 1000, 10, 1e-6, accountant=accountant)
    assert spent.upper == pytest.approx(published, rel=0.005)
    assert spent.lower <= published * 1.001


@pytest.mark.parametrize(("name", "published"), [("logarithmic", 3.851), ("geometric", 4.431)])
def test_ten_runs_by_repeat_and_select(name, published):
    spent = hyperparameter_tuning.repeat_and_select(
        RECORD, 1000, 10, 1e-6, shape=hyperparameter_tuning.SHAPES[name]
    )
    assert spent == pytest.approx(published, rel=0.001)
    assert (
        one_run(accountant="rdp")
        < spent
        < hyperparameter_tuning.composed(RECORD, 1000, 10, 1e-6).upper
    )


def test_one_run_composed_is_the_run():
    assert hyperparameter_tuning.composed(RECORD, 1000, 1, 1e-6).upper == one_run()


@pytest.mark.parametrize("shape", hyperparameter_tuning.SHAPES.values())
def test_more_runs_cost_more(shape):
    spent = [
        hyperparameter_tuning.repeat_and_select(RECORD, 100, mean, 1e-6, shape=shape)
        for mean in (1, 2, 100)
    ]
    assert spent == sorted(spent)
    assert spent[0] < spent[-1]


def test_a_group_takes_the_lemma_over_the_epsilon_of_one_slot():
    """It exceeds k times the slot's epsilon at the same delta, and the cost of one run."""
    grouped = hyperparameter_tuning.repeat_and_select(GROUP, 500, 10, 1e-5, shape=1)
    slot = hyperparameter_tuning.repeat_and_select(GROUP.single_slot(), 500, 10, 1e-5, shape=1)
    assert grouped > 5 * slot
    alone = accounting.epsilon([(GROUP, 500)], 1e-5, accountant="rdp", group_bound="lemma").upper
    assert grouped > alone


def test_the_mixture_has_no_repeat_and_select():
    assert "group_bound=lemma" in str(hyperparameter_tuning.unavailable(GROUP, "mixture"))
    assert hyperparameter_tuning.unavailable(GROUP, "lemma") is None
    assert hyperparameter_tuning.unavailable(RECORD, "mixture") is None


def test_a_capped_cohort_has_no_repeat_and_select():
    capped = RoundEvent(sampling_rate=0.01, noise_multiplier=1.0, population=10_000, cohort_cap=200)
    assert "capped" in str(hyperparameter_tuning.unavailable(capped, "mixture"))


@pytest.mark.parametrize("mean", [0, 0.5, float("nan"), float("inf")])
def test_mean_runs_out_of_range_are_refused(mean):
    with pytest.raises(ValueError, match="mean_runs"):
        hyperparameter_tuning.repeat_and_select(RECORD, 10, mean, 1e-6, shape=1)
