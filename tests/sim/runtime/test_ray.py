"""Flower's engine on Ray: replies as they come, deaths of processes, a clean end, equal results."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from helpers import small_apps, small_world
from helpers.whole_runs import adapter, check_refused, stated
from userdp.sim import cli
from userdp.sim.common.errors import ConfigurationError, StoppedError
from userdp.sim.runtime import ray, registry
from userdp.sim.runtime.ray import Actors
from userdp.sim.runtime.registry import Asked, Nodes


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))


def actors(nodes=8, device="auto", gpus_here=0, cores=16, monkeypatch=None, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "_gpus", lambda: gpus_here)
        patch.setattr(ray, "_cores", lambda: cores)
        found = Actors.of(Asked(nodes=nodes, options=options, device=device))
    return found.count, found.cpus, found.gpus


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, (8, 2, 0)),
        ({"nodes": 100}, (16, 1, 0)),
        ({"nodes": 2}, (2, 8, 0)),
        ({"nodes": 100, "cpus": 5}, (3, 5, 0)),
        ({"nodes": 2, "actors": 5}, (5, 3, 0)),
        ({"cores": 1}, (1, 1, 0)),
        ({"gpus_here": 4}, (4, 4, 1)),
        ({"gpus_here": 4, "nodes": 2}, (2, 8, 1)),
        ({"gpus_here": 4, "gpus": 0.5}, (8, 2, 0.5)),
        ({"gpus_here": 4, "gpus": 2}, (2, 8, 2)),
        ({"gpus_here": 4, "device": "cpu"}, (8, 2, 0)),
        ({"gpus_here": 4, "gpus": 0}, (8, 2, 0)),
    ],
)
def test_one_process_serves_a_gpu_or_a_share_of_the_cores_and_none_is_idle(asked, found):
    assert actors(**asked) == found


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"actors": 0}, "runtime.options.actors=0"),
        ({"actors": "many"}, "runtime.options.actors=many"),
        ({"cpus": 0.5}, "runtime.options.cpus=0.5"),
        ({"gpus": -1}, "runtime.options.gpus=-1"),
        ({"gpus": 1.5, "gpus_here": 4}, "runtime.options.gpus=1.5"),
        ({"gpus": 1}, "have|has 0 here"),
        ({"gpus": 1, "gpus_here": 2, "actors": 3}, "3 processes need 3 GPUs"),
        ({"gpus": 0, "gpus_here": 2, "device": "cuda:1"}, "device=cuda:1 needs some"),
        ({"threads": 4}, "choose one of actors, cpus, gpus"),
    ],
)
def test_what_the_machine_cannot_serve_is_refused(asked, told):
    with pytest.raises(ConfigurationError, match=told):
        actors(**asked)


def test_an_actor_sees_its_own_gpu_as_the_first_and_without_one_takes_the_processor():
    with_gpu, without = Actors(count=1, cpus=1, gpus=0.5), Actors(count=1, cpus=1, gpus=0)
    assert [with_gpu.device(d) for d in ("auto", "cuda", "cuda:3")] == ["auto", "cuda", "cuda"]
    assert [without.device(d) for d in ("auto", "cpu")] == ["cpu", "cpu"]


def test_without_ray_a_run_ends_in_one_line_before_its_folder_exists(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else find(name)
    )
    words = small_world.overrides("runtime=ray", "output=refused")
    check_refused(capsys, ["run", *words], "runtime.kind=ray", "install userdp[ray]")
    assert not Path("refused").exists()


def test_another_version_of_flower_is_told_in_one_line(monkeypatch):
    """The engine's module fails to import, as it does where a part of Flower has moved."""
    monkeypatch.delitem(sys.modules, "userdp.sim.runtime.ray_engine", raising=False)
    monkeypatch.delattr("userdp.sim.runtime.ray_engine", raising=False)
    monkeypatch.setitem(sys.modules, "flwr.server.superlink.fleet.vce", None)
    with pytest.raises(ConfigurationError, match=r"has no flwr.server.*fleet.vce.*\[ray\]"):
        registry.check("ray", Asked(nodes=1, options={}, device="cpu"))


def requests(grid, *do):
    """One message for each word, to the nodes in turn."""
    nodes = sorted(grid.get_node_ids())
    return [
        Message(
            RecordDict({"what": ConfigRecord({"do": word})}),
            dst_node_id=nodes[number % len(nodes)],
            message_type="train",
        )
        for number, word in enumerate(do)
    ]


def told(reply):
    return dict(reply.content["n"])


def of_ray():
    """Processes of Ray below this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if any("ray" in word for word in process.cmdline()[:3]):
                found.append(process)
    return found


@contextlib.contextmanager
def opened(folder, nodes=4, **options):
    config = {"device": "cpu", "folder": str(folder), "runtime": {"options": options}}
    asked = Nodes(count=nodes, app=None, config=config, make_app=small_apps.make)
    with ray.start(asked) as grid:
        yield grid


@pytest.mark.slow
@pytest.mark.trust
def test_two_processes_serve_four_nodes_and_outlive_each_others_deaths(tmp_path, caplog, capfd):
    """One start of Ray for all that does not end it."""
    registry.check("ray", Asked(nodes=4, options={}, device="cpu"))  # imports Ray, which sets some
    before = dict(os.environ), signal.getsignal(signal.SIGTERM), logging.getLogger("flwr").level
    with caplog.at_level(logging.DEBUG), opened(tmp_path, actors=2, cpus=1) as grid:
        check_apps_are_built_once_a_process(grid)
        check_replies_come_one_by_one(grid)
        check_errors_have_no_text(grid)
        check_a_message_that_failed_can_be_sent_again(grid)
        check_a_process_that_dies_is_started_again(grid)
        check_a_message_that_always_kills_is_an_error(grid)
        during = of_ray()
    assert len(during) >= 4  # two actors, and what serves them
    assert not of_ray()
    after = dict(os.environ), signal.getsignal(signal.SIGTERM), logging.getLogger("flwr").level
    assert after == before
    output = "".join(capfd.readouterr())
    assert output.strip() == ""
    assert "locker" not in caplog.text
    assert "Traceback" not in caplog.text
    assert "A node failed: ValueError at" in caplog.text


def check_apps_are_built_once_a_process(grid):
    replies = [told(r) for r in grid.send_and_receive(requests(grid, *["wait"] * 4))]
    replies += [told(r) for r in grid.send_and_receive(requests(grid, *["answer"] * 8))]
    assert len({reply["process"] for reply in replies}) == 2
    assert {reply["built"] for reply in replies} == {1}
    assert {reply["place"] for reply in replies} == {0, 1, 2, 3}
    assert os.getpid() not in {reply["process"] for reply in replies}


def check_replies_come_one_by_one(grid):
    start = time.monotonic()
    replies = iter(grid.send_and_receive(requests(grid, "wait", "answer")))
    next(replies)
    assert time.monotonic() - start < 2.5  # the other node takes three seconds
    next(replies)
    assert time.monotonic() - start > 2.9
    assert list(replies) == []


def check_errors_have_no_text(grid):
    replies = list(grid.send_and_receive(requests(grid, "raise", "answer")))
    [failed] = [reply for reply in replies if reply.has_error()]
    assert failed.error.reason.startswith("ValueError at ")
    assert len(replies) == 2


def check_a_message_that_failed_can_be_sent_again(grid):
    from userdp.sim.protocol import messages

    [request] = requests(grid, "answer")
    for again in (request, messages.again(request)):
        [reply] = grid.send_and_receive([again])
        assert not reply.has_error()


def check_a_process_that_dies_is_started_again(grid):
    [reply] = grid.send_and_receive(requests(grid, "die once"))
    assert told(reply)["built"] == 1


def check_a_message_that_always_kills_is_an_error(grid):
    [reply] = grid.send_and_receive(requests(grid, "die"))
    assert "its process ended" in reply.error.reason
    replies = list(grid.send_and_receive(requests(grid, *["answer"] * 4)))
    assert not [reply for reply in replies if reply.has_error()]


@pytest.mark.slow
def test_an_interrupt_ends_ray_whatever_its_processes_are_at(tmp_path):
    def interrupt():
        while not (tmp_path / "waiting").exists():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt), opened(tmp_path, nodes=1) as grid:  # noqa: PT012
        try:
            list(grid.send_and_receive(requests(grid, "wait for ever")))
        finally:
            start = time.monotonic()
    assert time.monotonic() - start < 15  # the node would take ten minutes
    assert not of_ray()


@pytest.mark.slow
def test_where_ray_does_not_start_the_run_says_why_and_can_be_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "ray.init", lambda **_: (_ for _ in ()).throw(ValueError("no port\nis free"))
    )
    line = r"did not start \(ValueError: no port is free\); no round was spent"
    with pytest.raises(StoppedError, match=line), opened(tmp_path):
        raise AssertionError


def entries(folder):
    """The ledger without times, and the hashes that follow from these."""
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    passing = {"created", "hash", "previous", "release"}  # a release: digest of a file with these
    return [{name: line[name] for name in line if name not in passing} for line in lines]


@pytest.mark.slow
@pytest.mark.trust
def test_a_multirun_on_ray_gives_what_it_gives_in_process(monkeypatch):
    common = ["privacy.reproducible=true", "strategy.records_per_user=1,2", "privacy.users=25"]
    for runtime in ("in_process", "ray"):
        words = [f"runtime={runtime}", "runtime.nodes=2", f"output={runtime}", *common]
        assert cli.main(["run", *small_world.overrides(*words), "-m"]) == 0
        assert not of_ray()
    for job in ("0", "1"):
        ours, other = Path("in_process", job), Path("ray", job)
        np.testing.assert_allclose(adapter(other), adapter(ours), rtol=0, atol=1e-6)
        assert stated(other)["epsilon"] == stated(ours)["epsilon"]
        assert entries(other) == entries(ours)
        assert cli.main(["verify", str(other)]) == 0
    assert np.abs(adapter(Path("ray", "0")) - adapter(Path("ray", "1"))).max() > 1e-4


@pytest.mark.slow
def test_a_process_that_cannot_load_its_model_stops_the_run_before_a_round(monkeypatch, capsys):
    """The actors look for the base model when they get their first message."""
    from userdp.sim.run import runner

    nodes = runner._nodes

    def without_model(prepared, config, masked):
        changed = {**config, "model": {**config["model"], "path": "gone"}}
        return nodes(prepared, changed, masked)

    monkeypatch.setattr(runner, "_nodes", without_model)
    words = small_world.overrides("runtime=ray", "output=run", "runtime.nodes=1")
    assert cli.main(["run", *words]) == 1
    err = capsys.readouterr().err
    assert "stopped: Before a round: node " in err
    assert "model.path=gone" in err  # what failed there
    assert "no round was spent" in err
    assert not of_ray()


@pytest.mark.slow
def test_flowers_own_strategy_over_our_app_is_told_what_is_missing(caplog):
    """The ClientApp that `flwr run` loads, under FedAvg, in Flower's own simulation."""
    from flwr.app import ArrayRecord
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    from userdp.sim.flower_app import client_app

    server, results = ServerApp(), []

    @server.main()
    def main(grid, context):
        strategy = FedAvg(fraction_evaluate=0.0)
        start = ArrayRecord([np.zeros(2)])
        results.append(strategy.start(grid=grid, initial_arrays=start, num_rounds=1))

    log = logging.getLogger("flwr")
    with caplog.at_level(logging.INFO, logger="flwr"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", "")  # which Flower changes for good
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or Ray warns
        patch.setattr(log, "propagate", True)
        resources = {"num_cpus": 1, "num_gpus": 0.0}
        run_simulation(server, client_app, 2, backend_config={"client_resources": resources})
    assert "serves userdp's PrivateStrategy alone: the message lacks adapter" in caplog.text
    assert "KeyError" not in caplog.text
    assert results
    assert not of_ray()
