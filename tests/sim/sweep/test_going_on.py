"""A sweep that did not end: crashed jobs, Ctrl-C, a killed process; and the same command again."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from helpers import small_world
from helpers.sweeps import GRID, stamps, sweep
from userdp.sim import cli
from userdp.sim.run import runner
from userdp.sim.run_folder import composed_epsilon
from userdp.sim.run_folder.layout import RunFolder, SweepFolder
from userdp.sim.sweep import jobs
from userdp.sim.sweep import sweep as sweep_module

pytestmark = pytest.mark.slow  # whole runs


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))
    return tmp_path


def crashing(monkeypatch, when) -> list[int]:
    """Let jobs raise where ``when(job settings)``; returns the seeds of jobs that were begun."""
    begun, real = [], runner.run

    def run_or_crash(settings, config, load):
        begun.append(settings.seed)
        if when(settings):
            raise MemoryError("no room\nfor this")
        return real(settings, config, load)

    monkeypatch.setattr(runner, "run", run_or_crash)
    return begun


@pytest.mark.slow
def test_a_crash_ends_its_job_alone_and_the_same_command_tries_only_that_again(monkeypatch, capsys):
    with monkeypatch.context() as once:
        crashing(once, lambda settings: settings.seed == 2 and settings.cohort == 4)
        assert sweep(*GRID) == 1
    out, err = capsys.readouterr()
    assert "3 of 4 complete" in out
    assert "job 1 (cohort=4 seed=2): MemoryError at " in err
    assert "output=mine" in err.splitlines()[-1]
    before = stamps()
    begun = crashing(monkeypatch, lambda _: False)
    assert sweep(*GRID) == 0
    assert begun == [2]
    assert "4 of 4 complete, 3 of them from before" in capsys.readouterr().out
    assert {name: stamps()[name] for name in before} == before
    assert jobs.failure_reason(RunFolder(Path("mine/1"))) is None


@pytest.mark.parametrize("on", [False, True])
def test_the_text_of_a_crash_is_kept_only_in_simulations(monkeypatch, capsys, on):
    """It may quote a record; what is kept says the kind of error and where in our code."""
    crashing(monkeypatch, lambda settings: True)
    assert sweep("cohort=4,6", "output=mine", f"track.simulation_only={str(on).lower()}") == 1
    kept = [path.read_text() for path in sorted(Path("mine").rglob("failed.txt"))]
    assert len(kept) == 2
    for text in (*kept, capsys.readouterr().err):
        assert ("for this" in text) == on
        assert "MemoryError" in text
    reason = jobs.failure_reason(RunFolder(Path("mine/0")))
    if on:
        assert reason == "MemoryError: no room for this"
    else:
        assert re.fullmatch(
            r"MemoryError at sweep/test_going_on.py:\d+ in run_or_crash, "
            r"called at sim/sweep/sweep.py:\d+ in _task",
            reason,
        )


@pytest.mark.slow
def test_what_never_reached_its_first_round_starts_anew(capsys):
    """A ledger without an intent, or with a torn header, is no run."""
    assert sweep(*GRID) == 0
    for name in "01":
        path = Path("mine") / name / "ledger.jsonl"
        header = path.read_bytes().partition(b"\n")[0]
        path.write_bytes(header + b"\n" if name == "0" else header[:50])
        (path.parent / "privacy_statement.json").unlink()
    before = [Path(f"mine/{name}/ledger.jsonl").read_bytes() for name in "23"]
    assert sweep(*GRID) == 0
    assert {name: rounds for name, (rounds, _) in stamps().items()} == dict.fromkeys("0123", 2)
    assert before == [Path(f"mine/{name}/ledger.jsonl").read_bytes() for name in "23"]


@pytest.mark.slow
def test_what_cannot_be_resumed_fails_alone(capsys):
    """A damaged ledger, and a checkpoint that is gone; the third job was never begun."""
    choices = ["cohort=4,5,6", "output=mine"]
    assert sweep(*choices) == 0
    Path("mine/0/ledger.jsonl").write_bytes(Path("mine/0/ledger.jsonl").read_bytes() + b"{}\n")
    for name in "01":
        (Path("mine") / name / "privacy_statement.json").unlink()
    shutil.rmtree("mine/1/checkpoint")
    shutil.rmtree("mine/2")
    capsys.readouterr()
    assert sweep(*choices) == 1
    err = capsys.readouterr().err
    assert "job 0 (cohort=4): resume=mine/0: mine/0/ledger.jsonl, line" in err
    assert "job 1 (cohort=5): resume=mine/1" in err
    assert "checkpoint/ is gone" in err
    assert "The epsilon of the sweep is not known: mine/0/ledger.jsonl, line" in err
    assert RunFolder(Path("mine/2")).complete


@pytest.mark.slow
def test_a_sweep_killed_half_way_completes_and_repeats_no_finished_run():
    """SIGKILL in the third of four jobs: two stay as they are, one is resumed, one is new."""
    grid = [*GRID, "rounds=6", "eval_every=1"]
    command = [sys.executable, "-m", "userdp.sim.cli", "run", "-m", *small_world.overrides(*grid)]
    third = Path("mine/2/metrics.jsonl")
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 120
        while not (third.exists() and third.read_bytes().count(b"\n") >= 3):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    killed = stamps()
    assert not RunFolder(Path("mine/2")).complete
    spent = killed["2"][0]
    assert 1 <= spent < 6
    assert sweep(*grid) == 0
    again = stamps()
    assert {name: again[name] for name in "01"} == {name: killed[name] for name in "01"}
    assert {name: rounds for name, (rounds, _) in again.items()} == dict.fromkeys("0123", 6)
    resumed = [json.loads(line) for line in Path("mine/2/ledger.jsonl").read_text().splitlines()]
    assert [entry["round"] for entry in resumed if entry["kind"] == "intent"] == [*range(1, 7)]
    assert sum(entry["kind"] == "note" for entry in resumed) == 1
    assert composed_epsilon.of_sweep(Path("mine")).rounds == 24


def test_ctrl_c_stops_the_sweep_and_says_how_to_go_on(monkeypatch, capsys):
    real = runner.run

    def interrupted(settings, config, load):
        if settings.seed == 2:
            raise KeyboardInterrupt
        return real(settings, config, load)

    monkeypatch.setattr(runner, "run", interrupted)
    assert sweep(*GRID) == 130
    told = capsys.readouterr().err.splitlines()[-1]
    assert "to resume: userdp run -m" in told
    assert told.endswith("output=mine")
    assert list(stamps()) == ["0"]


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (["cohort=4,5", "seed=1,2"], "job 2 is cohort=6 seed=1 there and cohort=5 seed=1 here"),
        (["cohort=4,6", "seed=1,2", "rounds=3"], "job 0 was run with another rounds"),
        (["cohort=4", "seed=1,2"], "another sweep"),
        (["cohort=4,6", "seed=1,2,3"], "job 2 is"),
    ],
)
def test_another_sweep_in_the_folder_is_refused(capsys, other, named):
    Path("mine").mkdir()
    every = jobs.compose(small_world.overrides(*GRID[:2]), Path("mine"))
    jobs.write_index(every, SweepFolder(Path("mine")), GRID)
    Path("mine/0").mkdir()
    Path("mine/0/config.yaml").write_text(json.dumps(every[0].config))
    assert sweep(*other, "output=mine") == 2
    assert named in capsys.readouterr().err
    assert not stamps()


def test_a_folder_with_runs_of_no_sweep_is_refused(capsys):
    assert cli.main(["run", *small_world.overrides("output=mine/0")]) == 0
    assert sweep(*GRID) == 2
    assert "holds runs already" in capsys.readouterr().err


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_other_launchers_leave_the_same_folders(monkeypatch, capsys, launcher):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # in jobs as in conftest.py: sums in equal order
    # Its own logging, set up at import, would close the stream that pytest gave to absl.
    monkeypatch.setenv("SUBMITIT_LOG_LEVEL", "NOCONFIG")
    workers = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    choices = ["privacy.reproducible=true", "cohort=4,6"]
    assert sweep(*choices, "output=mine", f"hydra/launcher={launcher}", *workers) == 0
    assert "2 of 2 complete" in capsys.readouterr().out
    assert sweep(*choices, "output=here") == 0
    for number in "01":
        ours, theirs = (Path(place) / number / "metrics.jsonl" for place in ("here", "mine"))
        assert ours.read_bytes() == theirs.read_bytes()


def running_job(number):
    """The process of a job that submitit started, once its ledger has some rounds."""
    ledger, deadline = Path(f"mine/{number}/ledger.jsonl"), time.monotonic() + 240
    while not ledger.exists() or ledger.read_bytes().count(b"\n") < 20:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    controllers = sorted(int(p.name) for p in Path("mine/.submitit").iterdir() if p.name.isdigit())
    controller = controllers[number]
    [process] = Path(f"/proc/{controller}/task/{controller}/children").read_text().split()
    return int(process)


@pytest.mark.slow
def test_a_preempted_job_resumes_by_itself_and_a_killed_one_by_the_same_command(
    monkeypatch, capsys
):
    """As a cluster ends jobs: a signal ahead of time, which submitit handles, and no signal."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SUBMITIT_LOG_LEVEL", "NOCONFIG")
    choices = ["cohort=4,6", "rounds=200", "eval_every=200", "output=mine"]
    asked = [*choices, "hydra/launcher=submitit_local"]

    def end():
        os.kill(running_job(0), signal.SIGUSR2)
        os.kill(running_job(1), signal.SIGKILL)

    ending = threading.Thread(target=end)
    ending.start()
    assert sweep(*asked) == 1
    ending.join()
    assert "job 1 (cohort=6): its process ended without a message" in capsys.readouterr().err
    before = Path("mine/0/ledger.jsonl").read_bytes()
    assert "SIGUSR2" in Path("mine/0/output.txt").read_text()
    assert before.count(b'"intent"') == 200  # the round that was cut off counts
    assert before.count(b'"done"') in (199, 200)
    assert sweep(*asked) == 0
    assert "2 of 2 complete, 1 of them from before" in capsys.readouterr().out
    assert Path("mine/0/ledger.jsonl").read_bytes() == before
    assert Path("mine/1/ledger.jsonl").read_bytes().count(b'"intent"') == 200


def test_a_job_that_its_launcher_left_running_is_not_called_dead(tmp_path):
    [job] = jobs.compose(small_world.overrides(), tmp_path)
    assert sweep_module._failure(job) == "its process ended without a message"
    job.folder.ledger.parent.mkdir(parents=True)
    job.folder.ledger.touch()
    assert not jobs.is_running(job.folder)
    with job.folder.ledger.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "still running" in sweep_module._failure(job)
    assert sweep_module._failure(job) == "its process ended without a message"


def test_a_launcher_that_is_not_installed_is_named(capsys):
    assert sweep("cohort=4,6", "hydra/launcher=nowhere") == 2
    assert "hydra/launcher" in capsys.readouterr().err
