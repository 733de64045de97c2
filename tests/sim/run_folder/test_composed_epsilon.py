"""What a folder of ledgers cost together: against one composition by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from userdp.server import accounting
from userdp.server.accounting import RoundEvent, hyperparameter_tuning
from userdp.server.ledger.ledger import Ledger, LedgerError
from userdp.server.ledger.query import Query
from userdp.sim.run_folder import composed_epsilon

DELTA = 1e-5


def ledger(
    folder: Path,
    z: float,
    rounds: int,
    *,
    q: float = 0.1,
    k: int = 1,
    done: int = 99,
    failure: float = 0.0,
    **header,
) -> None:
    """A run that intended so many rounds and finished ``done`` of them; z = 0 is not private."""
    folder.mkdir(parents=True, exist_ok=True)
    event = {"sampling_rate": q, "noise_multiplier": z, "group_size": k}
    event |= {"failure_probability": failure} if failure else {}
    usual = {
        **{"strategy": "user_wise", "seeds_policy": "secret", "delta": DELTA, "event": event},
        **{"rounds_per_event": 1, "group_bound": "mixture" if k > 1 else None},
        **{"unit": "user", "adjacency": "add-or-remove-one-user"},
    }
    with Ledger.create(folder / "ledger.jsonl", {**usual, **header}) as log:
        for number in range(1, rounds + 1):
            log.intend(number, event, [Query(name="sum", sensitivity=1.0, noise_std=z)])
            if number <= done:
                log.done(number, "digest")


def composed(*parts: tuple[float, int], q: float = 0.1, k: int = 1) -> accounting.Epsilon:
    events = [(RoundEvent(sampling_rate=q, noise_multiplier=z, group_size=k), n) for z, n in parts]
    return accounting.epsilon(events, DELTA)


def test_every_intended_round_of_every_run_is_composed(tmp_path):
    """Complete, interrupted with an open round, crashed before the first; at any depth."""
    ledger(tmp_path / "0", 1.0, 5)
    ledger(tmp_path / "1", 2.0, 7, done=6)
    ledger(tmp_path / "deep" / "2", 1.0, 3, done=0)
    ledger(tmp_path / "3", 1.0, 0)
    (tmp_path / "4").mkdir()
    (tmp_path / "4" / "ledger.jsonl").write_bytes(b'{"kind":"header"')  # torn: nothing released
    spending = composed_epsilon.of_sweep(tmp_path)
    by_hand = composed((1.0, 8), (2.0, 7))
    assert (spending.runs, spending.rounds, spending.delta) == (4, 15, DELTA)
    assert (spending.composed_lower, spending.composed_upper) == (by_hand.lower, by_hand.upper)
    assert spending.composed_upper > composed((1.0, 8)).upper  # the interrupted run counts
    assert "4 runs" in spending.sentences[0]
    assert "15 rounds" in spending.sentences[0]


def test_one_run_costs_what_it_claims(tmp_path):
    ledger(tmp_path, 0.8, 6, q=0.2, k=3)
    spending, by_hand = composed_epsilon.of_sweep(tmp_path), composed((0.8, 6), q=0.2, k=3)
    assert (spending.composed_lower, spending.composed_upper) == (by_hand.lower, by_hand.upper)
    assert spending.selected is None


def test_a_run_that_is_not_private_makes_the_whole_infinite_and_the_rest_is_told_apart(tmp_path):
    ledger(tmp_path / "0", 1.0, 5)
    ledger(tmp_path / "1", 0.0, 5, strategy="non_private")
    ledger(tmp_path / "2", 1.0, 5, seeds_policy="reproducible")
    spending = composed_epsilon.of_sweep(tmp_path)
    rest = composed_epsilon.of_sweep(tmp_path / "0")
    assert spending.composed_upper == math.inf
    assert spending.composed_lower == rest.composed_lower
    assert spending.sentences[0].startswith("NOT PRIVATE together: 2 runs of 3 are not private")
    assert f"epsilon <= {rest.composed_upper:.3g}"[:-1] in spending.sentences[0]
    assert (
        composed_epsilon.of_sweep(tmp_path / "1")
        .sentences[0]
        .startswith("NOT PRIVATE: none of 1 run")
    )


@pytest.mark.parametrize("more", [[], [{"z": 0.0, "strategy": "non_private"}]])
def test_failures_that_are_small_for_each_run_but_not_for_all_leave_no_epsilon_in_words(
    tmp_path, more
):
    """By hand: ten rounds at z = 0.5 are a Gaussian of mu = 6.3, twenty one of 8.9."""
    one, two = (composed((0.5, n), q=1.0).upper for n in (10, 20))
    failure = 1e-3 * DELTA / 10 / math.exp(one)
    assert 20 * failure * math.exp(two) > DELTA
    for name in "01":
        ledger(tmp_path / name, 0.5, 10, q=1.0, failure=failure)
    for settings in more:
        ledger(tmp_path / "2", rounds=10, **settings)
    assert math.isfinite(composed_epsilon.of_sweep(tmp_path / "0").composed_upper)
    spending = composed_epsilon.of_sweep(tmp_path)
    assert spending.composed_upper == math.inf
    [text] = spending.sentences
    assert "o finite epsilon is certified for" in text
    assert "2 runs" in text
    assert "these failures, which count e^epsilon times, exceed delta" in text
    assert "infinite" not in text
    assert "<=" not in text


RECORDS = {"unit": "record"}
EMPTIED = {"adjacency": "zero-out-one-user"}


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (RECORDS, "at record level, under adding or removing one user with all records, where"),
        (EMPTIED, "at user level, under emptying one user's records"),
    ],
)
def test_runs_that_protect_something_else_are_not_added_up(tmp_path, other, named):
    """A record's epsilon is no user's: the users' figure is that of the users' runs alone."""
    ledger(tmp_path / "0", 1.0, 5)
    ledger(tmp_path / "1", 2.0, 7)
    ledger(tmp_path / "2", 1.5, 9, **other)
    spending = composed_epsilon.of_sweep(tmp_path)
    users, others = (part.epsilon for part in spending.parts)
    assert (users, others) == (composed((1.0, 5), (2.0, 7)), composed((1.5, 9)))
    assert (spending.composed_upper, spending.composed_lower, spending.selected) == (
        math.inf,
        0.0,
        None,
    )
    first, second, third = spending.sentences
    assert "No one epsilon covers these 3 runs" in first
    assert second.startswith("Looking at 2 runs alone costs")
    assert "at user level, under adding or removing one user" in second
    assert third.startswith("Looking at 1 run alone costs")
    assert named in third
    ledger(tmp_path / "3", 0.0, 5, strategy="non_private")
    first, *rest = composed_epsilon.of_sweep(tmp_path).sentences
    assert first.startswith("NOT PRIVATE together: 1 run of 4 is not private")
    assert rest == [second, third]


@pytest.mark.parametrize("same", [RECORDS, EMPTIED])
def test_the_neighbours_that_all_runs_share_are_named(tmp_path, same):
    for name in "01":
        ledger(tmp_path / name, 1.0, 5, **same)
    spending = composed_epsilon.of_sweep(tmp_path)
    assert spending.composed_upper == composed((1.0, 10)).upper
    assert spending.parts[0].relation in spending.sentences[0]
    assert ("record level" in spending.sentences[0]) == (same is RECORDS)
    assert ("emptying" in spending.sentences[0]) == (same is EMPTIED)


def test_runs_on_other_data_are_told_apart_by_its_name(tmp_path):
    """Users of one set are not those of another: neither figure holds for both."""
    for name, z, rounds, path in (
        ("0", 1.0, 5, "mail/data.jsonl"),
        ("1", 2.0, 7, "plays.csv"),
        ("2", 1.5, 3, "mail/data.jsonl"),
    ):
        ledger(tmp_path / name, z, rounds)
        (tmp_path / name / "config.yaml").write_text(f"data: {{format: jsonl, path: {path}}}\n")
    spending = composed_epsilon.of_sweep(tmp_path)
    mail, plays = spending.parts
    assert (mail.data, mail.epsilon) == ("mail", composed((1.0, 5), (1.5, 3)))
    assert (plays.data, plays.epsilon) == ("plays", composed((2.0, 7)))
    assert (spending.composed_upper, spending.selected) == (math.inf, None)
    assert "No one epsilon covers these 3 runs" in spending.sentences[0]
    assert spending.sentences[1].startswith("Looking at 2 runs on the users of mail alone costs")
    assert spending.sentences[2].startswith("Looking at 1 run on the users of plays alone costs")
    assert spending.sentences[3].endswith("a user who is in several bears the cost of each.")


def test_correlated_rounds_are_priced_by_their_events(tmp_path):
    """Seven rounds at three a event: three events, in each run for itself."""
    for name in "01":
        ledger(tmp_path / name, 1.0, 7, rounds_per_event=3)
    assert composed_epsilon.of_sweep(tmp_path).composed_upper == composed((1.0, 6)).upper


def test_selection_is_the_costliest_run_repeated(tmp_path):
    ledger(tmp_path / "0", 2.0, 40)
    ledger(tmp_path / "1", 1.0, 30)
    ledger(tmp_path / "2", 1.5, 40)
    worst = RoundEvent(sampling_rate=0.1, noise_multiplier=1.0)
    spending = composed_epsilon.of_sweep(tmp_path)
    assert spending.selected == hyperparameter_tuning.repeat_and_select(
        worst, 40, 3, DELTA, shape=1.0
    )
    assert "repeat-and-select" in spending.sentences[1]


@pytest.mark.parametrize("other", [{"q": 0.2}, {"k": 2}, {"strategy": "non_private", "z": 0.0}])
def test_runs_without_one_bound_for_all_have_no_selection(tmp_path, other):
    ledger(tmp_path / "0", 1.0, 5)
    ledger(tmp_path / "1", other.pop("z", 1.0), 5, **other)
    spending = composed_epsilon.of_sweep(tmp_path)
    assert spending.selected is None
    assert len(spending.sentences) == 1


def test_the_strictest_delta_is_the_one_for_all(tmp_path):
    ledger(tmp_path / "0", 1.0, 5, delta=1e-4)
    ledger(tmp_path / "1", 1.0, 5)
    assert composed_epsilon.of_sweep(tmp_path).delta == DELTA


def test_a_folder_without_runs_and_a_damaged_ledger_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        composed_epsilon.of_sweep(tmp_path)
    ledger(tmp_path / "0", 1.0, 5)
    path = tmp_path / "0" / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"round":3', b'"round":4'))
    with pytest.raises(LedgerError):
        composed_epsilon.of_sweep(tmp_path)
