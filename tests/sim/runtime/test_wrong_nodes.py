"""Whole runs whose nodes answer wrongly or never: one line, nothing released, resumable."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest

from helpers import small_world
from userdp.clients.app import Host
from userdp.server.ledger import ledger
from userdp.sim import cli
from userdp.sim.protocol import messages

pytestmark = pytest.mark.slow  # whole runs

HONEST = Host.train


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))


def replying(change):
    """Nodes whose reply to round 2 is another one."""

    def train(self, message, place):
        reply = HONEST(self, message, place)
        return change(self, message, reply) if message.metadata.group_id == "2" else reply

    return train


def with_sum(change):
    def changed(host, message, reply):
        cohort = messages.read_reply(reply, host.model.layout)
        return messages.train_reply(message, host.model.layout, change(cohort))

    return changed


def to_round_1(host, message, reply):
    reply.metadata.__dict__["_group_id"] = "1"
    return reply


def as_node_99(host, message, reply):
    reply.metadata.__dict__["_src_node_id"] = 99
    return reply


WRONG = {
    "not finite": with_sum(lambda c: dataclasses.replace(c, total=np.full_like(c.total, np.nan))),
    "is longer than": with_sum(lambda c: dataclasses.replace(c, total=c.total + 1e6)),
    "another round": to_round_1,
    "node 99 sent a reply, and was not asked": as_node_99,
}


@pytest.mark.parametrize("reason", WRONG)
def test_a_wrong_answer_stops_the_run_which_can_be_resumed(monkeypatch, capsys, reason):
    options = ["output=run", "cohort=20", "rounds=3", "runtime.nodes=2"]
    with monkeypatch.context() as patch:
        patch.setattr(Host, "train", replying(WRONG[reason]))
        assert cli.main(["run", *small_world.overrides(*options)]) == 1
    [line] = [x for x in capsys.readouterr().err.splitlines() if x.startswith("userdp: stopped")]
    assert line.startswith("userdp: stopped: Round 2: ")
    assert reason in line
    assert "node " in line
    assert line.endswith("userdp run resume=run")
    account = ledger.verify(Path("run/ledger.jsonl"))
    assert (account.rounds, account.unfinished) == (2, (2,))
    assert cli.main(["run", "resume=run"]) == 0
    assert cli.main(["verify", "run"]) == 0
    assert ledger.verify(Path("run/ledger.jsonl")).rounds == 3


def test_a_node_that_never_answers_meets_the_time_limit(monkeypatch, capsys):
    forever = threading.Event()

    def silent(self, message, place):
        forever.wait(60)
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(Host, "train", silent)
        options = ["output=run", "cohort=20", "runtime.timeout=0.3"]
        assert cli.main(["run", *small_world.overrides(*options)]) == 1
    forever.set()
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("userdp: stopped: Round 1: 1 node(s) failed twice")
    assert cli.main(["run", "resume=run"]) == 0


@pytest.mark.parametrize("seconds", ["0", "-1", "inf", "nan"])
def test_a_time_limit_is_a_number_of_seconds(capsys, seconds):
    options = small_world.overrides("output=run", f"runtime.timeout={seconds}")
    assert cli.main(["run", *options]) == 2
    assert "runtime.timeout" in capsys.readouterr().err
    assert not Path("run").exists()


def test_a_time_limit_never_takes_a_user_out_of_a_release(capsys):
    """How long a node takes depends on its users' records: a release may not depend on it."""
    late = ["runtime.timeout=60", "runtime.drop_failed_nodes=true"]
    assert cli.main(["run", *small_world.overrides("output=run", *late)]) == 2
    err = capsys.readouterr().err
    assert "runtime.timeout=60" in err
    assert err.count("\n") == 1
