"""Every epsilon that a run logs, prints or states is at or above the certified upper value.

The oracle accounts for the ledger's intents alone, round by round.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from helpers import small_world
from helpers.whole_runs import logged, ran, stated
from userdp.server import accounting
from userdp.server.statement import prose
from userdp.sim import cli

pytestmark = pytest.mark.slow  # whole runs

ROUNDS = 4
STRATEGIES = {
    "user_wise": ["strategy=user_wise"],
    "capped": ["strategy=user_wise", "strategy.cohort_max=9"],
    "adaptive, discrete": [
        *("strategy=user_wise", "strategy.clip_quantile=0.5", "strategy.clip_bit_noise=6"),
        "privacy.noise=discrete",
    ],
    "group_privacy": ["strategy=group_privacy"],
    "lemma": ["strategy=group_privacy", "privacy.group_bound=lemma"],
    "concentrated": [
        *("strategy=concentrated", "cohort=22", "privacy.users=22", "strategy.min_weight=4"),
        *("strategy.test_share=0.9", "strategy.test_statistic=pairs", "strategy.tau=1"),
    ],
    "groups": ["strategy=matrix_factorization"],
    "coins": ["strategy=matrix_factorization", "strategy.bands=2"],
}
NUMBER = r"([0-9.]+(?:e-?[0-9]+)?)"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
    return tmp_path


def certified(entries: list[dict], rounds: int) -> accounting.Epsilon:
    """Epsilon of the first so many intents of a ledger's entries."""
    header = entries[0]["mechanism"]
    events = [entry["event"] for entry in entries if entry["kind"] == "intent"][:rounds]
    assert len(events) == rounds
    assert all(event == events[0] for event in events)
    count = math.ceil(rounds / header["rounds_per_event"])
    return accounting.epsilon(
        [(accounting.RoundEvent.from_dict(events[0]), count)],
        header["delta"],
        accountant=header["accountant"],
        group_bound=header["group_bound"] or "mixture",
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_epsilon_that_a_run_tells_is_below_the_certified_upper_value(strategy, capsys):
    z = 0.5 if strategy == "concentrated" else 1.5
    more = ["privacy.epsilon=null", f"privacy.noise_multiplier={z}", f"rounds={ROUNDS}"]
    folder = ran("run", *STRATEGIES[strategy], *more)
    out, err = capsys.readouterr()
    entries = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    after = {number: certified(entries, number) for number in range(1, ROUNDS + 1)}
    rows = {row["round"]: row for row in logged(folder) if "epsilon" in row}
    progress = dict(re.findall(rf"round ([0-9]+)/{ROUNDS}  epsilon {NUMBER}", err))
    for number in range(1, ROUNDS + 1):
        assert rows[number]["epsilon"] >= after[number].upper
        assert float(progress[str(number)]) >= after[number].upper
    _check_claims(folder, out, after[ROUNDS])
    assert cli.main(["verify", str(folder)]) == 0
    _check_pairs(capsys.readouterr().out, after[ROUNDS])


def _check_claims(folder: Path, out: str, spent: accounting.Epsilon) -> None:
    """Statement, card, summary and terminal; none of them has the lower value for the upper one."""
    told, card = stated(folder), (folder / "adapter" / "README.md").read_text()
    assert told["epsilon"] == prose.round_up(spent.upper)
    assert told["epsilon_lower"] == prose.round_down(spent.lower)
    assert prose.round_up(spent.lower) < spent.upper  # so that one in the other's place is seen
    at_delta = told["epsilon_at_deltas"][repr(told["delta"])]
    assert at_delta >= spent.upper
    assert f"| epsilon | {json.dumps(told['epsilon'])} |" in card
    [summary] = [row for row in logged(folder) if "summary/epsilon" in row]
    assert summary["summary/epsilon"] >= spent.upper
    [(most, least)] = re.findall(rf"epsilon <= {NUMBER} \(at least {NUMBER}\)", out)
    assert float(most) >= spent.upper >= spent.lower >= float(least)
    for text in (out, card):
        _check_pairs(text, spent)


def _check_pairs(text: str, spent: accounting.Epsilon) -> None:
    found = re.findall(rf"\(epsilon = {NUMBER}, delta = ", text)
    assert found
    assert all(float(value) >= spent.upper for value in found)
