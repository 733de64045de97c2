"""Only metrics of a declared type leave a run, and every tracker writes the same ones."""

import io
import json
import math
import time

import pytest

from sim import metrics, progress, track

PRIVATE = {"train_loss": 3.25, "cohort_size": 17}


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No account, no settings of the person who runs the tests, and no server to reach."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_three_kinds_are_what_the_claim_needs():
    """What sees the cohort before noise is simulation_only; what sees it after is released."""
    kinds = {key: kind.value for key, kind in metrics.KINDS.items()}
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
        metrics.typed({"gradient": 1.0}, {}, keep=keep)
    with pytest.raises(ValueError, match="'gradient'"):
        metrics.typed({}, {"gradient": 1.0}, keep=keep)
    with pytest.raises(ValueError, match="'train_loss'"):
        metrics.typed({"train_loss": 1.0}, {}, keep=keep)
    with pytest.raises(ValueError, match="'epsilon' is public"):
        metrics.typed({}, {"epsilon": 1.0}, keep=keep)


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


def records(folder):
    """What wandb wrote for the one run in ``folder``; the file is a LevelDB log."""
    internal = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    data, position, part = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length = int.from_bytes(data[position + 4 : position + 6], "little")
        kind = data[position + 6]
        part += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield internal.Record.FromString(part)
            part = b""


def wait_for_files():
    """A finished run's file is written by wandb's own process; stopping that completes it."""
    pytest.importorskip("wandb").teardown()


def history(folder):
    return [
        {item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for record in records(folder)
        if record.WhichOneof("record_type") == "history"
    ]


def run_offline(folder, *, simulation_only=False, close=True, **options):
    (folder / "adapter" / "inner").mkdir(parents=True)
    (folder / "adapter" / "inner" / "weights.bin").write_bytes(b"weights")
    (folder / "statement.json").write_text("{}")
    tracker = track.WandbTracker(
        folder, group="sweep", job_type="run", simulation_only=simulation_only, **options
    )
    tracker.start({"clip_norm": 0.5, "folder": "x"})
    for number in (1, 2, 3):
        time.sleep(0.05 * number)
        tracker.log(number, {"epsilon": number / 10}, simulation_only=PRIVATE)
    tracker.summary({"heldout_perplexity": 99.0})
    tracker.artifact(folder / "adapter", "adapter", "model")
    tracker.artifact(folder / "statement.json", "statement", "privacy")
    if close:
        tracker.close()
    return tracker


def test_two_offline_runs_of_one_process_are_two_runs_of_one_group(tmp_path):
    run_offline(tmp_path / "first", name="first", tags=["t"], close=False)
    run_offline(tmp_path / "second", name="second")
    wait_for_files()
    runs = {}
    for name in ("first", "second"):
        run = next(r.run for r in records(tmp_path / name) if r.WhichOneof("record_type") == "run")
        runs[run.run_id] = run.display_name
        assert (run.run_group, run.job_type, run.host) == ("sweep", "run", "")
        config = {item.key: item.value_json for item in run.config.update}
        assert config["clip_norm"] == "0.5"
        written = [(row["round"], row["epsilon"]) for row in history(tmp_path / name)]
        assert written == [(1, 0.1), (2, 0.2), (3, 0.3)]
        steps = [r.metric for r in records(tmp_path / name) if r.HasField("metric")]
        assert [(step.glob_name, step.step_metric) for step in steps] == [("*", "round")]
        kept = [r.request.log_artifact.artifact for r in records(tmp_path / name)]
        kept += [r.artifact for r in records(tmp_path / name)]
        files = {
            (one.type, entry.path) for one in kept for entry in one.manifest.contents if one.type
        }
        assert files == {("model", "inner/weights.bin"), ("privacy", "statement.json")}
    assert sorted(runs.values()) == ["first", "second"]


def test_nothing_private_reaches_wandb_unless_switched_on(tmp_path, capfd):
    run_offline(tmp_path / "strict")
    run_offline(tmp_path / "open", simulation_only=True)
    wait_for_files()
    private = {f"simulation_only/{key}": value for key, value in PRIVATE.items()}
    assert all(private.items() <= row.items() for row in history(tmp_path / "open"))
    strict = history(tmp_path / "strict")
    assert {key for row in strict for key in row if not key.startswith("_")} == {"round", "epsilon"}
    # How long a round took depends on who was in it: every row carries the same times.
    assert {len({row[key] for row in strict}) for key in ("_timestamp", "_runtime")} == {1}
    assert len({row["_runtime"] for row in history(tmp_path / "open")}) == 3
    names = [path.name for path in tmp_path.glob("strict/wandb/offline-run-*/**/*")]
    assert not {"output.log", "requirements.txt", "wandb-metadata.json", "diff.patch"} & {*names}
    kinds = {record.WhichOneof("record_type") for record in records(tmp_path / "strict")}
    assert not {"stats", "output", "output_raw"} & kinds
    assert list((tmp_path / "data").rglob("*.bin")) == []
    assert capfd.readouterr().out == ""


def test_wandb_is_told_online_only_by_the_environment(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    asked = {}

    class Stopped(Exception):
        pass

    def init(**options):
        asked.update(options)
        raise Stopped

    monkeypatch.setattr(wandb, "init", init)
    for mode, expected in ((None, "offline"), ("", "offline"), ("online", "online")):
        if mode is not None:
            monkeypatch.setenv("WANDB_MODE", mode)
        with pytest.raises(Stopped):
            track.WandbTracker(tmp_path).start({})
        assert asked["mode"] == expected
    settings = asked["settings"]
    assert (settings.console, settings.disable_git, settings.disable_code) == ("off", True, True)
    assert (settings.x_disable_stats, settings.x_disable_meta) == (True, True)
    assert asked["reinit"] == "finish_previous"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_in_a_file_is_a_line_every_tenth_of_the_run():
    stream = io.StringIO()
    with progress.Progress(30, stream) as bar:
        for number in range(1, 31):
            bar.update(
                number, epsilon=number / 8, score=("perplexity", 200.0) if number == 1 else None
            )
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "round 3/30  epsilon 0.38  perplexity 200"  # 0.375, never rounded down
    assert lines[-1] == "round 30/30  epsilon 3.75  perplexity 200"


@pytest.mark.parametrize("total", [1, 7, 25])
def test_progress_always_ends_with_the_last_round(total):
    stream = io.StringIO()
    with progress.Progress(total, stream) as bar:
        for number in range(1, total + 1):
            bar.update(number)
    assert stream.getvalue().splitlines()[-1] == f"round {total}/{total}"
    assert len(stream.getvalue().splitlines()) <= 13


def test_progress_on_a_terminal_shows_epsilon_and_perplexity(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with progress.Progress(4, stream) as bar:
        bar.update(4, epsilon=1.25, score=("perplexity", 150.0))
    assert "4/4" in stream.getvalue()
    assert "epsilon 1.25" in stream.getvalue()
    assert "perplexity 150" in stream.getvalue()
