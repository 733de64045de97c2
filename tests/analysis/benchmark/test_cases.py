"""Options of `userdp bench`: named cases, lengths of real records, and what results record."""

from __future__ import annotations

import json

from userdp.analysis.benchmark import cases
from userdp.analysis.benchmark.peers.work import Work


def mail(tmp_path):
    rows = [("ann", "One, two."), ("bob", "a"), ("ann", "x y z " * 9), ("cy", "hi there"),
            ("ann", "third one"), ("dee", "don't stop")]  # fmt: skip
    path = tmp_path / "mail.jsonl"
    path.write_text("".join(json.dumps({"user_id": u, "text": t}) + "\n" for u, t in rows))
    return path


def test_lengths_of_a_file_are_words_and_marks_cut_to_records_and_length(tmp_path):
    options = cases.parse([f"lengths={mail(tmp_path)}", "users=3", "records=2", "length=10"])
    # ann: 4 and 27, her third record is over the limit; bob's only text has nothing to predict;
    # cy: 2; dee: don ' t stop.
    assert cases.real_lengths(options) == [[4, 10], [2], [4]]
    assert Work(cases.spec(options)).counts.tolist() == [2, 1, 1]


def test_recorded_options_hold_no_path_of_the_machine(tmp_path):
    options = cases.parse([f"lengths={mail(tmp_path)}", "users=3", f"save={tmp_path}/x.csv"])
    recorded = cases.recorded(options)
    assert recorded["lengths"] == f"{tmp_path.name}/mail.jsonl"
    assert str(tmp_path) not in json.dumps(recorded)


def test_other_options_change_a_named_case():
    options = cases.parse(["case=one_by_32", "users=8", "sides=round,plain"])
    assert (options.users, options.records, options.length) == (8, 1, 32)
    assert options.sides == ["round", "plain"]
