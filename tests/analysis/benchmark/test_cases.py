"""Options of `userdp bench`: named cases, lengths of real records, and what results record."""

from __future__ import annotations

import json

import pytest

from userdp.analysis.benchmark import cases
from userdp.analysis.benchmark.peers.work import Work
from userdp.clients.quantization import quantization
from userdp.sim.common.errors import ConfigurationError


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


def test_layers_are_compiled_in_three_ways_and_heads_may_share_keys():
    for word, value in (("true", True), ("false", False), ("graphs", "graphs")):
        work = cases.spec(cases.parse([f"compile={word}", "family=llama", "kv_heads=2"]))
        assert work.compile == value
        assert Work(work).spec.kv_width == 64  # of width 128 in four heads
    with pytest.raises(ConfigurationError, match=r"compile"):
        cases.parse(["compile=grafs"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["quantize=int7"], r"quantize=int7: choose one of int8, fp8, nf4\."),
        (["quantize=int8"], r"quantize=int8: the layers of family=gpt2 cannot be"),
        (["quantize=nf4", "sides=round,opacus"], r"quantize=nf4 sides=opacus: only round, "),
        (["quantize=nf4"], r"^bench quantize=nf4: bitsandbytes does not .*; take dtype=bfloat16"),
        (["kv_heads=2"], r"kv_heads=2: only for family=llama"),
        (["family=llama", "kv_heads=3"], r"kv_heads=3: .* must divide heads=4"),
    ],
)
def test_a_base_that_no_side_has_is_refused_by_the_option(words, message):
    with pytest.raises(ConfigurationError, match=message):
        cases.parse(words)


def test_a_library_that_is_missing_is_told_by_the_option(monkeypatch):
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"^bench quantize=int8: torchao is not installed"):
        cases.parse(["quantize=int8", "family=llama"])
