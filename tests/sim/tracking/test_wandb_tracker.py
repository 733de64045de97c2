"""What a run leaves in wandb's own offline file, read back by wandb's own records."""

import time

import pytest

from helpers import wandb_file
from helpers.wandb_file import history, records, wait_for_files
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.tracking import wandb_tracker

PRIVATE = {"train_loss": 3.25, "cohort_size": 17}


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    wandb_file.isolate(monkeypatch, tmp_path)


def run_offline(folder, *, simulation_only=False, close=True, **options):
    (folder / "adapter" / "inner").mkdir(parents=True)
    (folder / "adapter" / "inner" / "weights.bin").write_bytes(b"weights")
    (folder / "statement.json").write_text("{}")
    tracker = wandb_tracker.WandbTracker(
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
        axes = {step.glob_name or step.name: step.step_metric for step in steps}
        assert axes.pop("*") == "round"
        assert axes.pop("round") == ""
        assert set(axes) >= {"by_epsilon/heldout_loss", "by_epsilon/heldout_accuracy"}
        assert set(axes.values()) == {"epsilon"}
        assert wandb_file.artifacts(tmp_path / name) == {
            ("adapter", "model", "inner/weights.bin"),
            ("statement", "privacy", "statement.json"),
        }
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
    passed = {}

    class Stopped(Exception):
        pass

    def init(**options):
        passed.update(options)
        raise Stopped

    monkeypatch.setattr(wandb, "init", init)
    for mode, expected in ((None, "offline"), ("", "offline"), ("online", "online")):
        if mode is not None:
            monkeypatch.setenv("WANDB_MODE", mode)
        with pytest.raises(ConfigurationError, match=f"WANDB_MODE={expected}: did not start: Stop"):
            wandb_tracker.WandbTracker(tmp_path).start({})
        assert passed["mode"] == expected
    settings = passed["settings"]
    assert (settings.console, settings.disable_git, settings.disable_code) == ("off", True, True)
    assert (settings.x_disable_stats, settings.x_disable_meta) == (True, True)
    assert passed["reinit"] == "finish_previous"


def test_scores_are_logged_against_the_epsilon_spent_by_then(tmp_path):
    """Round and scores come in rows of their own; a run without epsilon has no such axis."""
    for name, spent in (("private", 0.3), ("free", float("inf"))):
        tracker = wandb_tracker.WandbTracker(tmp_path / name)
        (tmp_path / name).mkdir()
        tracker.start({})
        tracker.log(0, {"heldout_loss": 6.0})
        tracker.log(1, {"epsilon": spent})
        tracker.log(1, {"heldout_loss": 5.0, "heldout_perplexity": 148.4})
        tracker.summary({"heldout_loss": 5.0, "heldout_loss_before": 6.0})
        tracker.close()
    wait_for_files()
    rows = [{k: v for k, v in row.items() if k[0] != "_"} for row in history(tmp_path / "private")]
    assert rows == [
        {"round": 0, "heldout_loss": 6.0},
        {"round": 1, "epsilon": 0.3},
        {
            **{"round": 1, "epsilon": 0.3, "heldout_loss": 5.0, "heldout_perplexity": 148.4},
            **{"by_epsilon/heldout_loss": 5.0, "by_epsilon/heldout_perplexity": 148.4},
        },
    ]
    assert not any("by_epsilon" in key for row in history(tmp_path / "free") for key in row)
    summary = wandb_file.summary(tmp_path / "private")
    assert (summary["heldout_loss"], summary["heldout_loss_before"]) == (5.0, 6.0)


@pytest.mark.parametrize(
    ("environment", "project", "told"),
    [
        ({"WANDB_MODE": "online", "WANDB_API_KEY": ""}, "p", "WANDB_MODE=online: wandb has no key"),
        ({"WANDB_MODE": "nonsense"}, "p", "WANDB_MODE=nonsense"),
        ({}, "mail/2024", "track.project=mail/2024"),
        ({}, "x" * 200, "track.project=xxx"),
    ],
)
def test_what_cannot_start_is_told_before_there_is_a_folder(
    monkeypatch, tmp_path, environment, project, told
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        wandb_tracker.check(project=project, group=None, tags=["user_wise"])
    assert str(caught.value).startswith(told)
    assert len(str(caught.value).splitlines()) == 1
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb_tracker.check(project="mail-2024", group="g", tags=["user_wise"])


def test_texts_are_a_page_inside_the_run_folder_in_which_nothing_is_markup(tmp_path):
    tracker = run_offline(tmp_path / "run", close=False)
    with pytest.raises(ValueError, match="'train_loss'"):
        tracker.texts("train_loss", ("text",), [("x",)])
    tracker.texts("samples", ("prompt", "adapter"), [("a & b", "<script>x</script>\x1b[31m\nend")])
    tracker.close()
    wait_for_files()
    [page] = (tmp_path / "run").glob("wandb/offline-run-*/files/media/html/samples*.html")
    assert (
        "<td>a &amp; b</td><td>&lt;script&gt;x&lt;/script&gt;\\x1b[31m\nend</td>"
        in page.read_text()
    )
    assert any("samples" in key for row in history(tmp_path / "run") for key in row)
    outside = [path for path in tmp_path.rglob("*") if path.is_file()]
    held = [path for path in outside if b"&lt;script&gt;" in path.read_bytes()]
    assert held == [page]
