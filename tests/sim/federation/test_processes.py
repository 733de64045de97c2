"""Processes and the state file: ended are those that were started, and no other."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time

import pytest

from userdp.sim import cli
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.federation import down, processes, state
from userdp.sim.federation.processes import Process
from userdp.sim.federation.state import State
from userdp.sim.runtime.link_options import STATE

SLEEPS = [sys.executable, "-c", "import time; time.sleep(60)"]
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); "


def test_a_process_is_known_by_its_id_and_its_beginning(tmp_path):
    one = processes.start("one", SLEEPS, tmp_path / "log", {})
    other = Process(name="other", pid=one.pid, started="another time")
    assert (one.runs, other.runs) == (True, False)
    processes.end([other], 0.2)
    assert one.runs
    processes.end([one], 5.0)
    assert not one.runs
    processes.end([one], 5.0)


def test_a_process_that_does_not_end_by_itself_is_killed(tmp_path):
    words = [sys.executable, "-c", f"{STUBBORN}time.sleep(60)"]
    one = processes.start("one", words, tmp_path / "log", {})
    while "1" not in (tmp_path / "log").read_text():
        time.sleep(0.02)
    begin = time.monotonic()
    processes.end([one], 0.5)
    assert not one.runs
    assert 0.5 <= time.monotonic() - begin < 5


def test_output_is_for_its_owner_alone_and_the_environment_is_changed(tmp_path):
    words = [sys.executable, "-c", "import os; print(os.environ['COLOUR'])"]
    one = processes.start("one", words, tmp_path / "log", {"COLOUR": "blue"})
    while one.runs:
        time.sleep(0.02)
    assert (tmp_path / "log").read_text() == "blue\n"
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600


def made(folder, *some):
    folder.mkdir(exist_ok=True)
    (folder / down.MARK).touch()
    (folder / "node-0.key").touch()
    (folder / "x.secret").touch()
    link = {"address": "127.0.0.1:1"}
    State(nodes=1, superlink=link, supernodes=[], processes=some).write(folder)


def test_down_ends_what_up_noted_and_nothing_else_twice_without_an_error(tmp_path, capsys):
    bystander = subprocess.Popen(SLEEPS)
    try:
        ours = processes.start("node-0", SLEEPS, tmp_path / "log", {})
        recycled = Process(name="superlink", pid=bystander.pid, started="another time")
        made(tmp_path / "fed", recycled, ours)
        assert stat.S_IMODE((tmp_path / "fed" / STATE).stat().st_mode) == 0o600
        assert cli.main(["down", str(tmp_path / "fed")]) == 0
        assert (ours.runs, bystander.poll()) == (False, None)
        assert sorted(os.listdir(tmp_path / "fed")) == [down.MARK]  # no key and no secret is left
        assert cli.main(["down", f"state={tmp_path / 'fed'}"]) == 0
        assert cli.main(["down", "--state", str(tmp_path / "never")]) == 0
        assert capsys.readouterr().out.count("no federation runs") == 2
    finally:
        bystander.kill()
        bystander.wait()


def test_down_deletes_nothing_of_a_folder_that_up_did_not_make(tmp_path):
    (tmp_path / "mine.key").touch()
    assert cli.main(["down", str(tmp_path)]) == 0
    assert (tmp_path / "mine.key").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.pop("processes"),
        lambda v: v.update(format=2),
        lambda v: v["processes"][0].update(pid=1),
        lambda v: v["processes"][0].update(pid=-1),
        lambda v: v["processes"][0].update(pid="7"),
        lambda v: v["processes"][0].update(started=""),
        lambda v: v["processes"][0].pop("name"),
    ],
)
def test_a_damaged_state_file_ends_nobody(change, tmp_path):
    made(tmp_path, Process(name="node-0", pid=12345, started="x"))
    values = json.loads((tmp_path / STATE).read_text())
    change(values)
    (tmp_path / STATE).write_text(json.dumps(values))
    with pytest.raises(ConfigurationError, match="is damaged"):
        state.processes(tmp_path)
    assert cli.main(["down", str(tmp_path)]) == 2


def test_up_refuses_what_it_cannot_start(tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    for words, text in (
        (["--nodes", "4"], "give shards=FOLDER"),
        (["--nodes", "0", "--shards", "x"], "nodes=0"),
        (["--nodes", "two", "--shards", "x"], "nodes=two"),
        (["--shards"], "--shards: needs a value"),
        (["--colour", "blue"], "--colour: no such option"),
        (["--shards", str(tmp_path)], "no shard is there"),
    ):
        assert cli.main(["up", *words]) == 2
        assert text in capsys.readouterr().err
