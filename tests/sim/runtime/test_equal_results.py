"""One configuration under every runtime, with and without secure sums: one result.

The ledgers are equal but for times, for what depends on them, and for the fields that name who
could read a single node's sum and where the records were; epsilon is the same, and adapters are
equal to 1e-6: float32 rounds a user's update by the shape of their stack, and so by who else their
node hosts. Masked sums are on a grid of less than 1e-11 C for these users, which is far below that.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from helpers import federations
from userdp.server.ledger import ledger
from userdp.sim import cli
from userdp.sim.run_folder.layout import RunFolder

pytestmark = pytest.mark.slow

TOLERANCE = 1e-6
# When a run was made, and hashes of it; the digest of a release is of floats, bit by bit.
OF_TIME = {"created", "hash", "previous", "release", "time"}
# Who could read a single node's sum, and where the records were.
OF_PLACES = {"masked": "secure_sum", "superlink": "nodes_hold_records"}
MASKED = ["runtime.secure_sum=true"]
RUNTIMES = {
    "200 nodes": ["runtime.nodes=200"],
    "ray": ["runtime=ray", "runtime.nodes=2"],
    "masked, 4 nodes": ["runtime.nodes=4", *MASKED],
    "masked, 200 nodes": ["runtime.nodes=200", *MASKED],
    "masked, ray": ["runtime=ray", "runtime.nodes=2", *MASKED],
}
FEDERATIONS = {"superlink": [], "masked, superlink": ["--secure_sum"]}


def ran(folder, *words):
    assert cli.main(["run", *words, f"output={folder}"]) == 0
    assert cli.main(["verify", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The run in this process, with one node."""
    folder = tmp_path_factory.mktemp("expected") / "run"
    return ran(folder, *federations.WORLD, *federations.data())


def entries(folder):
    """The ledger without times and places; its hash would be that of these texts."""
    found = ledger.verify(RunFolder(folder).ledger).entries
    public = [{k: v for k, v in entry.items() if k not in OF_TIME} for entry in found]
    header = public[0]["mechanism"]
    return public, [name for name in OF_PLACES.values() if header.pop(name, None) is not None]


def adapter(folder):
    tensors = load_file(RunFolder(folder).adapter / "adapter_model.safetensors")
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


def epsilon(folder):
    return json.loads(RunFolder(folder).statement.read_text())["epsilon"]


def assert_equal_results(folder, expected, name):
    (found, places), (asked, none) = entries(folder), entries(expected)
    assert found == asked
    assert (places, none) == ([OF_PLACES[word] for word in OF_PLACES if word in name], [])
    assert epsilon(folder) == epsilon(expected)
    difference = np.abs(adapter(folder) - adapter(expected)).max()
    assert difference <= TOLERANCE < 100 * TOLERANCE < np.abs(adapter(expected)).max()


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_on_this_machine_gives_the_same_result(tmp_path, expected, name):
    words = [*federations.WORLD, *federations.data(), *RUNTIMES[name]]
    assert_equal_results(ran(tmp_path / "run", *words), expected, name)


@pytest.mark.parametrize(
    "name", ["superlink", pytest.param("masked, superlink", marks=pytest.mark.trust)]
)
def test_a_federation_of_other_processes_gives_the_same_result(tmp_path, expected, name):
    """The server has no record to train on, and each of four SuperNodes its own users' alone."""
    federation = federations.started(tmp_path, 4, *FEDERATIONS[name])
    try:
        masked = federation.masked if "masked" in name else []
        folder = ran(tmp_path / "run", *federation.overrides, *masked)
    finally:
        federation.close()
    assert_equal_results(folder, expected, name)
