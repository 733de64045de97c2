"""Federations on this machine for tests: started once, broken in many ways, ended at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from helpers import small_world
from userdp.sim import cli
from userdp.sim.federation import down, node, processes, state
from userdp.sim.runtime.link_options import STATE

TESTS = Path(__file__).parents[1]
USERS = 40  # declared
WORLD = ["model=local", f"model.path={small_world.model()}", "model.seq_len=16", "model.lora.r=2",
         "strategy.records_per_user=2", "cohort=20", "rounds=2", "device=cpu", "eval_every=10",
         f"privacy.users={USERS}", "privacy.epsilon=8", "privacy.reproducible=true"]  # fmt: skip


def data():
    return ["data=jsonl", f"data.path={small_world.folder() / 'mail.jsonl'}", "data.holdout=0.3"]


def eventually(there, seconds=60.0):
    end = time.monotonic() + seconds
    while not (found := there()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return found


@dataclass
class Federation:
    """One that ``userdp up`` has started, and what a test breaks of it."""

    shards: Path
    folder: Path
    others: list[subprocess.Popen] = field(default_factory=list)

    @property
    def overrides(self):
        nodes = json.loads((self.folder / STATE).read_text())["nodes"]
        return [*WORLD, "data=shard", f"data.path={self.shards / 'server'}", "runtime=superlink",
                f"runtime.nodes={nodes}", "runtime.patience=100",
                f"runtime.options.federation={self.folder}"]  # fmt: skip

    @property
    def masked(self):
        """Overrides for secure sums, where ``userdp up`` has made keys."""
        return ["runtime.secure_sum=true", f"runtime.keys={self.folder / down.KEYS}"]

    def process(self, name):
        return next(one for one in state.processes(self.folder) if one.name == name)

    def command(self, name):
        """The words and the environment by which a process was started."""
        place = Path("/proc", str(self.process(name).pid))
        words = place.joinpath("cmdline").read_bytes().split(b"\0")[:-1]
        given = place.joinpath("environ").read_bytes().split(b"\0")
        variables = dict(one.decode().partition("=")[::2] for one in given if one)
        return [word.decode() for word in words], variables

    def end(self, name, number=signal.SIGTERM):
        process = self.process(name)
        os.kill(process.pid, number)
        eventually(lambda: not process.runs)

    def start(self, words, variables):
        log = (self.folder / "others.log").open("ab")
        child = subprocess.Popen(words, env=variables, stdout=log, stderr=log)
        log.close()
        self.others.append(child)
        return child

    def close(self):
        for child in self.others:
            child.kill()
            child.wait()
        processes.end(state.processes(self.folder), 5.0)


def started(root, nodes, *flags):
    shards, folder = root / "shards", root / "federation"
    assert cli.main(["shard", *data(), *WORLD, f"nodes={nodes}", f"output={shards}"]) == 0
    words = ["up", "--nodes", str(nodes), "--shards", str(shards), "--state", str(folder)]
    words += flags
    assert cli.main(words) == 0
    return Federation(shards, folder)


def with_lying_node(federation, control):
    """Let a worker that lies stand for that of node 0; ``control/mode`` tells it what to do."""
    control.mkdir()
    (control / "mode").write_text("honest")
    words, variables = federation.command("node-0")
    federation.end("node-0")
    options = words[words.index("node") + 1 :]
    variables["PYTHONPATH"] = str(TESTS)
    lying = [sys.executable, "-m", "helpers.lying_node", str(control), *options]
    started = federation.start(lying, variables)
    log = federation.folder / "others.log"
    eventually(lambda: node.READY in log.read_text(errors="replace"), 200)
    return started


@dataclass
class Run:
    """A run whose outcome a test looks at."""

    folder: Path
    code: int
    line: str  # on standard error


def run(folder, capfd, *words):
    capfd.readouterr()
    code = cli.main(["run", *words])
    return Run(folder, code, capfd.readouterr().err)


def meanwhile(action):
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread
