"""Only metrics of a declared type leave a run, and every tracker writes the same ones."""

import json
import math

import pytest

from userdp.sim.tracking import metric_kinds
from userdp.sim.tracking import tracker as track

PRIVATE = {"train_loss": 3.25, "cohort_size": 17}


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_three_kinds_are_what_the_claim_needs():
    """What sees the cohort before noise is simulation_only; what sees it after is released."""
    kinds = {key: metric.kind.value for key, metric in metric_kinds.METRICS.items()}
    seen_raw = "clipped_fraction train_loss mean_update_norm cohort_size failed_units records_used"
    seen_raw += " tokens_used users_real records_real seconds_round"
    assert {kinds[key] for key in seen_raw.split()} == {"simulation_only"}
    assert {kinds[key] for key in ("release_norm", "signal_norm", "signal_to_noise")} == {
        "released"
    }
    assert {kinds[key] for key in ("epsilon", "noise_std", "heldout_loss")} == {"public"}


@pytest.mark.parametrize("keep", [False, True])
def test_a_key_of_the_wrong_kind_is_refused_with_and_without_the_switch(keep):
    with pytest.raises(ValueError, match="'gradient'"):
        metric_kinds.typed({"gradient": 1.0}, {}, keep=keep)
    with pytest.raises(ValueError, match="'gradient'"):
        metric_kinds.typed({}, {"gradient": 1.0}, keep=keep)
    with pytest.raises(ValueError, match="'train_loss'"):
        metric_kinds.typed({"train_loss": 1.0}, {}, keep=keep)
    with pytest.raises(ValueError, match="'epsilon' is public"):
        metric_kinds.typed({}, {"epsilon": 1.0}, keep=keep)


def test_private_values_are_written_only_with_the_switch_and_under_their_prefix(tmp_path):
    written = {}
    for keep in (False, True):
        path = tmp_path / f"{keep}.jsonl"
        tracker = track.JsonlTracker(path, simulation_only=keep)
        tracker.start({})
        tracker.log(1, {"epsilon": 0.5}, simulation_only=PRIVATE)
        tracker.summary({"heldout_perplexity": 99.0}, simulation_only={"users_real": 5})
        tracker.close()
        written[keep] = rows(path)
    assert written[False] == [
        {"round": 1, "epsilon": 0.5},
        {"round": 1, "summary/heldout_perplexity": 99.0},
    ]
    assert written[True][0] == {
        "round": 1,
        "epsilon": 0.5,
        "simulation_only/train_loss": 3.25,
        "simulation_only/cohort_size": 17,
    }
    assert written[True][1]["summary/simulation_only/users_real"] == 5


def test_a_refused_row_writes_nothing(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tracker = track.JsonlTracker(path, simulation_only=True)
    tracker.start({})
    with pytest.raises(ValueError, match="'cohort_size'"):
        tracker.log(1, {"epsilon": 0.5, "cohort_size": 17})
    assert path.read_text() == ""
    tracker.close()


def test_every_line_is_on_disk_at_once_and_strict_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tracker = track.JsonlTracker(path)
    tracker.start({})
    tracker.log(1, {"epsilon": math.inf, "heldout_loss": math.nan, "clip_norm": 0.5})
    assert rows(path) == [{"round": 1, "epsilon": None, "heldout_loss": None, "clip_norm": 0.5}]
    tracker.close()


def test_a_resumed_run_appends_after_the_last_whole_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"round": 1, "epsilon": 0.5}\n{"round": 2, "eps')
    tracker = track.JsonlTracker(path)
    tracker.start({})
    tracker.log(3, {"epsilon": 0.7})
    tracker.close()
    assert [row["round"] for row in rows(path)] == [1, 3]


def test_a_tracker_that_was_not_started_says_so(tmp_path):
    with pytest.raises(ValueError, match="start"):
        track.JsonlTracker(tmp_path / "metrics.jsonl").log(1, {"epsilon": 0.5})


def test_null_keeps_nothing_but_checks_types(tmp_path):
    tracker = track.NullTracker()
    tracker.start({})
    tracker.log(1, {"epsilon": 0.5}, simulation_only=PRIVATE)
    with pytest.raises(ValueError, match="train_loss"):
        tracker.log(1, {"train_loss": 0.5})
    tracker.artifact(tmp_path, "adapter", "model")
    tracker.close()


def test_fanout_gives_each_tracker_the_same(tmp_path):
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    tracker = track.Fanout(*(track.JsonlTracker(path) for path in paths))
    tracker.start({})
    tracker.log(1, {"epsilon": 0.5}, simulation_only=PRIVATE)
    tracker.summary({"heldout_loss": 1.0})
    tracker.artifact(tmp_path, "adapter", "model")
    tracker.close()
    assert paths[0].read_text() == paths[1].read_text() != ""


@pytest.mark.parametrize("key", ["train_loss", "poems"])
def test_texts_of_private_data_or_of_no_declared_kind_are_refused(tmp_path, key):
    rows = [("p", "b", "a")]
    lines = track.JsonlTracker(tmp_path / "metrics.jsonl", simulation_only=True)
    lines.start({})
    for one in (track.NullTracker(), lines, track.Fanout(track.NullTracker())):
        with pytest.raises(ValueError, match=f"'{key}'"):
            one.texts(key, ("prompt", "base", "adapter"), rows)
        one.texts("samples", ("prompt", "base", "adapter"), rows)
    lines.close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""
