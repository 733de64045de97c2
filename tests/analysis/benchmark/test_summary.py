"""Medians and ratios of turns by hand, and the CSV file that they are appended to."""

from __future__ import annotations

import csv
import json

from helpers.tiny_work import spec
from userdp.analysis.benchmark import summary
from userdp.analysis.benchmark.peers.work import Work


def turns(*seconds: float) -> list[dict]:
    """A side's answers, which took these seconds for 42 tokens."""
    memory = {"peak_bytes": 10**6, "gpu_peak_bytes": None}
    return [{"seconds": value, "tokens": 42, **memory} for value in seconds]


ANSWERS = {"round": turns(2.0, 6.0, 4.0), "plain": turns(4.0, 3.0, 8.0)}


def test_a_ratio_is_the_median_of_the_ratios_of_the_turns():
    sides = summary.figures(ANSWERS, Work(spec()), None, {})["sides"]
    # By hand: 2/4, 6/3, 4/8; the ratio of the medians would be 1.
    assert sides["round"]["of_plain"] == {"median": 0.5, "least": 0.5, "most": 2.0}
    assert sides["plain"]["of_round"] == {"median": 2.0, "least": 0.5, "most": 2.0}
    assert sides["round"]["seconds"] == {"median": 4.0, "least": 2.0, "most": 6.0}
    assert sides["plain"]["tokens_a_second"] == 42 / 4.0


def test_the_time_of_a_user_is_that_of_the_round_over_its_cohort():
    results = summary.cohort_figures({"2": turns(2.0, 6.0, 4.0), "4": turns(5.0, 4.0, 9.0)}, {})
    cohorts = results["cohorts"]
    assert cohorts["2"]["seconds_a_user"]["median"] == 2.0
    assert cohorts["4"]["seconds_a_user"]["median"] == 5.0 / 4
    assert cohorts["4"]["seconds_a_user_more"] == (5.0 - 4.0) / 2
    assert (results["spread_of_time"], results["spread_of_memory"]) == (1.6, 1.0)


def test_a_csv_file_grows_by_a_row_for_each_side(tmp_path):
    results = summary.figures(ANSWERS, Work(spec()), None, {}) | {"shape": {"users": 4}}
    path = tmp_path / "folder" / "bench.csv"
    for _ in range(2):
        summary.append(str(path), results)
    with path.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["side"] for row in rows] == ["round", "plain"] * 2
    assert (rows[0]["of_plain_median"], rows[0]["seconds_most"]) == ("0.5", "6")
    assert json.loads(rows[1]["shape"]) == {"users": 4}
