"""Output before and after a run, and for a plan: rows of the mechanism, NOT PRIVATE in titles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from helpers import run_folders
from userdp.server import accounting
from userdp.server.mechanisms.non_private import NonPrivate
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.console import run_summary
from userdp.sim.planning.noise_estimate import NoiseEstimate
from userdp.sim.planning.planner import Plan
from userdp.sim.run_folder.layout import RunFolder

PUBLIC = {"users": 1000, "cohort": 50.0, "records_per_user": 4}


@dataclass(frozen=True, kw_only=True)
class Halving(UserWise):
    """A mechanism of another package, which has rows for the terminal."""

    def console(self) -> str:
        return "halves every update"

    def console_rows(self) -> Mapping[str, str]:
        return {"halvings": "1 an update", "second row": "of a mechanism"}


def plan_of(mechanism, **changes) -> Plan:
    infinite = not mechanism.private
    lower, upper = (math.inf, math.inf) if infinite else (1.23441, 1.23449)
    plan = Plan(
        mechanism=mechanism,
        rounds=10,
        delta=1e-5,
        accountant="pld",
        group_bound="mixture",
        epsilon=accounting.Epsilon(lower=lower, upper=upper),
        target=None,
    )
    return replace(plan, **changes)


HALVING = plan_of(Halving(**PUBLIC, clip_norm=0.5, noise_multiplier=1.25))
OPEN = plan_of(NonPrivate(**PUBLIC))


def start(plan, *, reproducible=False, minutes=2.0, real=()) -> None:
    run_summary.print_start(
        plan, model="tiny", minutes=minutes, reproducible=reproducible, real=dict(real)
    )


def rows_of(text: str) -> dict[str, str]:
    """The rows by title, which two spaces or more separate from the value."""
    _, *lines = text.splitlines()
    return {line[2:].partition("  ")[0]: line.rpartition("  ")[2].strip() for line in lines}


def described(**changes):
    figures = {
        "strategy": "halving",
        "records_per_user": 4,
        "rounds": 10,
        "sampling_rate": 0.05,
        "expected_cohort": 50.0,
        "noise_multiplier": 1.25,
        "noise_std_on_mean": 0.0125,
    }
    return {**figures, **changes}


def test_a_start_has_the_mechanisms_line_and_its_own_rows(capsys):
    start(HALVING)
    out = capsys.readouterr().out
    rows = rows_of(out)
    assert out.startswith("userdp run\n")
    assert rows["mechanism"] == "halves every update"
    assert rows["halvings"] == "1 an update"
    assert rows["declared users"] == "1,000"
    assert rows["noise"] == "z = 1.25, C = 0.5"
    assert rows["expected time"] == "about 2.0 minutes"
    # An upper figure is rounded up, a lower one down.
    assert rows["claim"] == "epsilon <= 1.235 (at least 1.234) at delta = 1e-05, pld"
    titles = list(rows)
    assert titles.index("noise") < titles.index("halvings") < titles.index("claim")


def test_real_counts_are_marked_as_simulation_only(capsys):
    start(HALVING, real={"users": 1234})
    assert rows_of(capsys.readouterr().out)["simulation_only: users"] == "1,234"


def test_an_open_number_of_records_has_no_expected_time(capsys):
    start(HALVING, minutes=None)
    assert rows_of(capsys.readouterr().out)["expected time"].startswith("open")


@pytest.mark.parametrize(
    ("plan", "reproducible", "claim"),
    [
        (OPEN, False, "NOT PRIVATE: no clip, no noise"),
        (HALVING, True, "NOT PRIVATE (privacy.reproducible=true); would be epsilon <= 1.235"),
    ],
    ids=["no-noise", "replayed-noise"],
)
def test_a_run_that_is_not_private_says_so_in_title_and_claim(capsys, plan, reproducible, claim):
    start(plan, reproducible=reproducible)
    out = capsys.readouterr().out
    assert out.startswith("NOT PRIVATE: userdp run\n")
    assert rows_of(out)["claim"].startswith(claim)


def test_an_estimate_is_shown_beside_the_claim_as_no_bound():
    estimate = NoiseEstimate(accountant="edgeworth", order=2, target=1.0, epsilon=0.98765)
    claim = run_summary.claim(replace(HALVING, noise_estimate=estimate), reproducible=False)
    assert claim.startswith("epsilon <= 1.235")
    assert claim.endswith("the Edgeworth estimate for the target 1 is 0.9877, no bound")


def test_a_plan_has_the_mechanisms_own_rows(capsys):
    run_summary.print_plan(described(cohort_cap=60, epsilon_without_cap=None), HALVING)
    out = capsys.readouterr().out
    rows = rows_of(out)
    assert out.startswith("userdp plan\n")
    assert rows["strategy"] == "halving, k = 4"
    assert rows["noise multiplier z"] == "1.25"
    assert rows["second row"] == "of a mechanism"
    assert rows["cap"].endswith("without it the same noise gives epsilon <= infinite")
    assert rows["other accountants"] == "userdp plan --json"


def test_a_plan_without_noise_names_no_accountant(capsys):
    run_summary.print_plan(described(noise_multiplier=0.0), OPEN)
    rows = rows_of(capsys.readouterr().out)
    assert rows["claim"].startswith("NOT PRIVATE")
    assert "other accountants" not in rows


@pytest.mark.parametrize(
    ("strategy", "title"),
    [("user_wise", "outcome\n"), ("non_private", "NOT PRIVATE: outcome\n")],
)
def test_an_end_has_scores_places_and_the_claim_last(capsys, strategy, title):
    facts = run_folders.privacy_statement(strategy=strategy, epsilon=2.0, k=4, rounds=10)
    run_summary.print_end(RunFolder(Path("my-run")), {"held-out score": "9"}, facts)
    out = capsys.readouterr().out
    assert out.startswith(title)
    assert "held-out score  9" in out
    assert "my-run/adapter\n" in out
    assert ("NOT PRIVATE" in out.splitlines()[-1]) == (strategy == "non_private")


def test_a_long_value_is_wrapped_on_a_terminal_and_one_line_elsewhere(capsys, monkeypatch):
    value = "word " * 40
    run_summary.print_rows("title", {"name": value.strip(), "n": "1"})
    assert capsys.readouterr().out.splitlines()[1] == "  name  " + value.strip()
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    run_summary.print_rows("title", {"name": value.strip(), "n": "1"})
    _, first, *further, last = capsys.readouterr().out.splitlines()
    assert max(map(len, [first, *further])) <= 60
    assert all(line.startswith(" " * 8) for line in further)
    assert " ".join([first.split("  ")[2], *map(str.strip, further)]) == value.strip()
    assert last == "  n     1"


@pytest.mark.parametrize("value", [7.9944, 7.99400000001, 2.0, 1.2345e-5, 0.99999])
def test_an_upper_figure_is_never_printed_below_itself(value):
    assert value <= float(run_summary.upper(value)) <= value * 1.001


def test_an_infinite_figure_is_a_word():
    assert run_summary.upper(math.inf) == run_summary.upper(None) == "infinite"


def test_json_refuses_what_json_does_not_have():
    with pytest.raises(ValueError, match="JSON"):
        run_summary.print_json({"epsilon": math.inf})
