"""A node built from a configuration alone, in another process, gives the same clipped sum."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from helpers import small_world, whole_runs
from userdp.clients.app import client_app
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import hydra_compose, stored_config, validation
from userdp.sim.inputs import run_inputs
from userdp.sim.planning import planner
from userdp.sim.protocol import messages
from userdp.sim.protocol.contract import Assignment
from userdp.sim.run import node_setup
from userdp.sim.run_folder.layout import RunFolder
from userdp.sim.runtime.in_process import InProcessGrid

NODE = """
import pickle, sys
import yaml
from flwr.app import ArrayRecord
from userdp.sim.protocol import messages
from userdp.sim.protocol.contract import Assignment, Contract
from userdp.sim.protocol.layout import Layout, to_array
from userdp.sim.run import node_setup
from userdp.sim.runtime.in_process import InProcessGrid

with open(sys.argv[2], "rb") as file:
    tensors, contract, users, slots = pickle.load(file)
with open(sys.argv[1]) as file:
    grid = InProcessGrid(node_setup.app_from_config(yaml.safe_load(file)), 1)
arrays = ArrayRecord({name: to_array(tensor) for name, tensor in tensors.items()})
[node] = grid.get_node_ids()
request = messages.train_message(node, arrays, Contract(**contract), Assignment(users, slots))
[reply] = grid.send_and_receive([request])
layout = Layout.of({name: tensor.shape for name, tensor in tensors.items()})
with open(sys.argv[3], "wb") as file:
    pickle.dump(vars(messages.read_reply(reply, layout)), file)
"""


def other_process(folder: Path, config: Path, *request) -> dict:
    """The fields of the sum from a new process, which does not share this one's cache."""
    message, reply = folder / "message.pickle", folder / "reply.pickle"
    message.write_bytes(pickle.dumps(request))
    environment = {**os.environ, "USERDP_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", NODE, str(config), str(message), str(reply)]
    subprocess.run(command, check=True, env=environment, cwd=folder, timeout=240)
    return pickle.loads(reply.read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["strategy=user_wise", "strategy.local_steps=2", "strategy.clip_quantile=0.5"],
        ["strategy=group_privacy", "selection=high_perplexity"],
    ],
    ids=["users", "slots"],
)
def test_a_process_with_the_configuration_alone_gives_the_same_sum(tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(tmp_path / "cache-of-the-server"))
    run = RunFolder(whole_runs.ran("run", *options))
    settings, _ = stored_config.stored(run)
    inputs = run_inputs.build(settings)
    mechanism = planner.make(settings, len(inputs.corpus.train)).mechanism
    contract = mechanism.contract(3, node_setup.local_work(settings))
    users = np.repeat(np.arange(0, len(inputs.corpus.train), 2), mechanism.group_size)
    slots = np.tile(np.arange(mechanism.group_size), len(users) // mechanism.group_size)
    slots = slots if contract.unit == "record_slot" else slots[:0]
    layout = inputs.model.layout
    adapter = np.random.default_rng(0).normal(0, 0.1, layout.size).astype(np.float32)

    host = node_setup.host(settings, inputs, run_inputs.fit_engine(settings, inputs.model))
    grid = InProcessGrid(client_app(host), 1)
    [node], arrays = grid.get_node_ids(), layout.to_arrays(adapter)
    request = messages.train_message(node, arrays, contract, Assignment(users, slots))
    [reply] = grid.send_and_receive([request])
    expected = messages.read_reply(reply, layout)

    folder = tmp_path / "elsewhere"
    folder.mkdir()
    config = folder / "config.yaml"
    config.write_text(run.config.read_text())
    got = other_process(folder, config, layout.named(adapter), asdict(contract), users, slots)
    np.testing.assert_allclose(got["total"], expected.total, rtol=1e-6, atol=1e-9)
    assert np.linalg.norm(expected.total) > 0
    assert got["figures"] == pytest.approx(expected.figures, rel=1e-6)
    assert got["unclipped_bits"] == expected.unclipped_bits


def test_the_local_work_is_that_of_the_configuration():
    settings, _ = hydra_compose.settings(
        small_world.overrides("strategy.local_steps=3", "seed=7", "selection=longest")
    )
    work = node_setup.local_work(settings)
    assert (work.local_steps, work.seed, work.selection, work.max_tokens) == (3, 7, "longest", 16)


def test_a_node_without_its_data_fails_when_its_app_is_built():
    """Before a message: nothing of a round is spent."""
    _, config = hydra_compose.settings(small_world.overrides())
    values = plain(config)
    with pytest.raises(ConfigurationError, match=r"data\.path=nowhere"):
        node_setup.app_from_config({**values, "data": {**values["data"], "path": "nowhere.jsonl"}})


def test_a_wrong_configuration_is_refused_before_the_first_message():
    _, config = hydra_compose.settings(small_world.overrides())
    with pytest.raises(ConfigurationError, match="rounds=0"):
        node_setup.app_from_config({**plain(config), "rounds": 0})


def plain(config) -> dict:
    return dict(validation.resolved(config))
