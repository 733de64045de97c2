"""Faults of a deployment, each tried: the run says so, nothing is released, and resume finishes.

The table in docs/superlink.md has a row for each.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

import pytest

from helpers import federations
from helpers.federations import TESTS, eventually, meanwhile, run
from userdp.server.ledger import ledger
from userdp.sim import cli
from userdp.sim.federation import certificates
from userdp.sim.run_folder.layout import RunFolder
from userdp.sim.runtime import flower_api, link_options, superlink

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    made = federations.started(tmp_path_factory.mktemp("federation"), 4)
    yield made
    made.close()


@pytest.fixture(scope="module")
def control(federation, tmp_path_factory):
    folder = tmp_path_factory.mktemp("control") / "node-0"
    federations.with_lying_node(federation, folder)
    return folder


@pytest.fixture
def node_0(control):
    """Tells the worker of node 0 what to do."""
    (control / "reached").unlink(missing_ok=True)
    (control / "mode").write_text("honest")

    class Node:
        def does(self, mode):
            (control / "mode").write_text(mode)

        def is_reached(self):
            return eventually((control / "reached").exists)

    yield Node()
    (control / "mode").write_text("honest")


def rounds(folder):
    account = ledger.verify(RunFolder(folder).ledger)
    return account.rounds, account.unfinished


def assert_stopped(outcome, unfinished, text):
    """It stopped in a round that stays spent; nothing of it is released."""
    assert outcome.code == 1, outcome.line
    assert text in outcome.line
    assert "resume with: userdp run resume=" in outcome.line
    assert rounds(outcome.folder) == (len(unfinished), unfinished)
    assert not RunFolder(outcome.folder).statement.exists()


def assert_resumes(folder, capfd, *words, rounds=2):
    again = run(folder, capfd, f"resume={folder}", *words)
    assert again.code == 0, again.line
    assert ledger.verify(RunFolder(folder).ledger).rounds == rounds
    assert cli.main(["verify", str(folder)]) == 0


LIES = {
    "norm": "its sum is longer than",
    "nan": "its sum is not finite",
    "shape": "reply does not have the form of the contract",
    "single": "reply does not have the form of the contract",
    "old": "a reply to another round, an old one",
}


def test_a_lying_node_stops_the_run_each_time_and_resume_finishes(
    federation, node_0, tmp_path, capfd
):
    """One lie after another, each in a round of its own: the run was resumed after the last."""
    folder, more = tmp_path / "run", f"rounds={len(LIES) + 1}"
    words = [*federation.overrides, f"output={folder}", more]
    for number, (lie, reason) in enumerate(LIES.items(), 1):
        node_0.does(lie)
        outcome = run(folder, capfd, *words)
        spent = tuple(range(1, number + 1))
        assert_stopped(outcome, spent, reason)
        words = [f"resume={folder}"]
    node_0.does("honest")
    assert_resumes(folder, capfd, rounds=len(LIES) + 1)


def test_a_node_that_raises_stops_the_run_and_quotes_no_record(federation, node_0, tmp_path, capfd):
    folder = tmp_path / "run"
    node_0.does("raise")
    outcome = run(folder, capfd, *federation.overrides, f"output={folder}")
    assert_stopped(outcome, (1,), "1 node(s) failed twice")
    logs = "".join(log.read_text(errors="replace") for log in federation.folder.glob("*.log"))
    assert "quizzaciously" not in outcome.line + logs


@pytest.mark.trust
def test_a_slow_node_stops_a_run_with_a_time_limit(federation, node_0, tmp_path, capfd):
    folder = tmp_path / "run"
    node_0.does("hold")
    words = [*federation.overrides, f"output={folder}", "runtime.timeout=8"]
    assert_stopped(run(folder, capfd, *words), (1,), "1 node(s) failed twice")
    node_0.does("honest")
    assert_resumes(folder, capfd, "runtime.timeout=null")


@pytest.mark.trust
def test_a_supernode_that_is_started_again_loses_no_round(federation, node_0, tmp_path, capfd):
    folder, (words, variables) = tmp_path / "run", federation.command("supernode-0")
    node_0.does("hold")

    def restart():
        node_0.is_reached()
        federation.end("supernode-0")
        federation.start(words, variables)
        node_0.does("honest")

    thread = meanwhile(restart)
    outcome = run(folder, capfd, *federation.overrides, f"output={folder}")
    thread.join()
    assert (outcome.code, rounds(folder)) == (0, (2, ()))
    assert cli.main(["verify", str(folder)]) == 0


def _server(federation, folder):
    words = [sys.executable, "-m", "userdp.sim.cli", "run", *federation.overrides]
    _, variables = federation.command("superlink")
    variables["PYTHONPATH"] = str(TESTS)
    return federation.start([*words, f"output={folder}"], variables)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.trust)]
)
def test_a_server_process_that_is_ended_is_resumed(number, federation, node_0, tmp_path, capfd):
    folder = tmp_path / "run"
    node_0.does("hold")
    server = _server(federation, folder)
    node_0.is_reached()
    server.send_signal(number)
    code = server.wait(30)
    node_0.does("honest")
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    assert rounds(folder) == (1, (1,))
    assert_resumes(folder, capfd)


def test_a_certificate_of_another_authority_is_refused(federation, tmp_path, capfd):
    foreign = certificates.Authority(tmp_path).certificate
    folder = tmp_path / "run"
    outcome = run(folder, capfd, *_with(federation, folder, certificate=foreign))
    assert (outcome.code, folder.exists()) == (2, False)
    assert "its certificate is not the one expected" in outcome.line


def test_a_supernode_with_a_key_that_was_not_admitted_is_refused(federation, tmp_path):
    words, variables = federation.command("supernode-1")
    certificates.node_key(tmp_path / "other.key")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    for name, value in (("--auth-supernode-private-key", tmp_path / "other.key"), ("--port", port)):
        words[words.index(name) + 1] = str(value)
    ended = subprocess.run(words, env=variables, capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0
    assert "Failed to initialize the connection" in ended.stdout + ended.stderr


def _with(federation, folder, **options):
    """The words of a run with other options than the federation's."""
    given = link_options.state(federation.folder) | options
    words = [word for word in federation.overrides if "federation=" not in word]
    named = [f"runtime.options.{name}={value}" for name, value in given.items() if value]
    return [*words, *named, f"output={folder}"]


def test_without_the_secret_nobody_gets_the_task_of_a_run(federation, tmp_path, capfd):
    (tmp_path / "guess").write_bytes(b"guessed")
    outcome = run(
        tmp_path / "run", capfd, *_with(federation, tmp_path / "run", secret=tmp_path / "guess")
    )
    assert (outcome.code, (tmp_path / "run").exists()) == (2, False)
    assert "it refuses, since the secret or the key is not the one expected" in outcome.line
    options = link_options.read({"federation": str(federation.folder)})
    stranger = flower_api.Endpoint(options["address"], options["certificate"], b"guessed")
    with (
        pytest.raises(flower_api.FAILED),
        flower_api.run(stranger, superlink.app_bundle(), flower_api.LinkGrid, seconds=1.0),
    ):
        raise AssertionError("a task was given away")


@pytest.mark.trust
def test_a_supernode_that_is_killed_stops_the_run(federation, node_0, tmp_path, capfd):
    folder, (words, variables) = tmp_path / "run", federation.command("supernode-1")
    node_0.does("hold")

    def kill():
        node_0.is_reached()
        federation.end("supernode-1", signal.SIGKILL)
        node_0.does("honest")

    thread = meanwhile(kill)
    outcome = run(folder, capfd, *federation.overrides, f"output={folder}")
    thread.join()
    assert outcome.code == 1, outcome.line
    assert "1 node(s) failed twice" in outcome.line
    spent, unfinished = rounds(folder)  # it may have answered to the first round before
    assert unfinished == (spent,)
    assert not RunFolder(folder).statement.exists()
    federation.start(words, variables)
    if spent == 1:
        assert_resumes(folder, capfd)
    else:
        assert run(folder, capfd, f"resume={folder}").code == 0


@pytest.mark.trust
def test_a_worker_that_is_killed_and_started_again_loses_no_round(
    federation, control, node_0, tmp_path, capfd
):
    folder, worker = tmp_path / "run", federation.others[0]
    words, (_, variables) = worker.args, federation.command("node-1")
    variables["PYTHONPATH"] = str(TESTS)
    node_0.does("die")

    def restart():
        worker.wait()
        node_0.does("honest")
        federation.start(words, variables)

    thread = meanwhile(restart)
    outcome = run(folder, capfd, *federation.overrides, f"output={folder}")
    thread.join()
    assert (outcome.code, rounds(folder)) == (0, (2, ())), outcome.line
    assert cli.main(["verify", str(folder)]) == 0


@pytest.mark.trust
def test_a_superlink_that_ends_stops_the_run(federation, node_0, tmp_path, capfd):
    """The last test: it ends the federation, and starts another in its place."""
    folder = tmp_path / "run"
    node_0.does("hold")

    def end():
        node_0.is_reached()
        federation.end("superlink", signal.SIGKILL)

    thread = meanwhile(end)
    outcome = run(folder, capfd, *federation.overrides, f"output={folder}")
    thread.join()
    assert_stopped(outcome, (1,), "the runtime failed")
    for child in federation.others:
        child.kill()
    assert cli.main(["down", str(federation.folder)]) == 0
    words = ["--nodes", "4", "--shards", str(federation.shards), "--state", str(federation.folder)]
    assert cli.main(["up", *words]) == 0
    assert_resumes(folder, capfd)
    assert cli.main(["down", str(federation.folder)]) == 0
    assert cli.main(["down", str(federation.folder)]) == 0
