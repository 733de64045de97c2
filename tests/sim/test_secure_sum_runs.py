"""Whole runs with secure sums beside plain ones: same adapter, same ledger, another trust model."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers import small_world, whole_runs
from userdp.clients import node_keys
from userdp.clients.app import Host
from userdp.server.ledger import hash_chain, ledger
from userdp.sim import cli
from userdp.sim.runtime import in_process

pytestmark = pytest.mark.slow  # whole runs

MASKED = ["runtime.nodes=4", "runtime.secure_sum=true"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))


def left_keys():
    root = small_world.folder() / "cache" / "keys"
    return list(root.iterdir()) if root.exists() else []


def entries(folder):
    """The ledger's entries without what time, hashes and secure sums change."""
    plain = []
    for entry in ledger.verify(Path(folder) / "ledger.jsonl").entries:
        kept = {k: v for k, v in entry.items() if k not in ("hash", "previous", "created")}
        if entry["kind"] == "header":
            kept["mechanism"] = {k: v for k, v in kept["mechanism"].items() if k != "secure_sum"}
        kept.pop("release", None)  # digest of the checkpoint, which holds the ledger's head
        plain.append(kept)
    return plain


STRATEGIES = {
    "user_wise": [],
    "group_privacy": ["strategy=group_privacy"],
    "adaptive": ["strategy.clip_quantile=0.5"],
    "discrete": ["privacy.noise=discrete"],
    "rescaled": ["optimizer=scale_then_privatize"],
    "matrix_factorization": ["strategy=matrix_factorization", "rounds=4"],
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_run_with_secure_sums_equals_a_plain_one_but_for_its_trust_model(name):
    common = [*STRATEGIES[name], "privacy.reproducible=true", "runtime.nodes=4"]
    plain = whole_runs.ran("plain", *common)
    masked = whole_runs.ran("masked", *common, *MASKED)
    one, other = whole_runs.adapter(plain), whole_runs.adapter(masked)
    # Rounding moves a sum by less than 2^-40 of its bound here, and the adapter is float32.
    np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-7)
    if name == "discrete":  # both on the mechanism's grid
        assert one.tolist() == other.tolist()
    assert entries(plain) == entries(masked)
    assert "secure_sum" not in ledger.verify(plain / "ledger.jsonl").header
    told, secret = whole_runs.stated(plain), whole_runs.stated(masked)
    different = {k for k in told if told[k] != secret[k]}
    assert different <= {"trust_model", "ledger_hash", "files"}
    assert told["epsilon"] == secret["epsilon"]


def at_home(count):
    """A runtime whose nodes have folders of their own, and the server the roster alone."""
    homes = [Path(f"home-{place}").absolute() for place in range(count)]
    public = [node_keys.make_private(home, place) for place, home in enumerate(homes)]
    for folder in (*homes, Path("server")):
        node_keys.write_roster(folder, public)

    @contextlib.contextmanager
    def start(nodes):
        runtime = nodes.config["runtime"]
        configs = [{**nodes.config, "runtime": {**runtime, "keys": str(home)}} for home in homes]
        apps = [nodes.make_app(config) for config in configs]

        def app(message, context):
            return apps[int(context.node_config["partition-id"])](message, context)

        yield in_process.InProcessGrid(app, nodes.count)

    return start


def test_a_private_key_that_comes_to_the_server_ends_its_trust_model(capsys, monkeypatch):
    monkeypatch.setattr(in_process, "start", at_home(2))
    two = ["rounds=2", "runtime.nodes=2", "runtime.secure_sum=true", "runtime.keys=server"]
    whole_runs.stopped("run", 2, *two, "rounds=3")
    shutil.copy("home-0/node-0.key", "server/node-0.key")
    capsys.readouterr()
    assert cli.main(["run", "resume=run"]) == 2
    assert "secure_sum.keys: 'at the nodes' in the ledger" in capsys.readouterr().err
    Path("server/node-0.key").unlink()
    assert cli.main(["run", "resume=run"]) == 0
    assert cli.main(["verify", "run"]) == 0


def test_statement_card_and_verify_name_who_saw_what(capsys, monkeypatch):
    whole_runs.ran("plain", "rounds=1", "runtime.nodes=2")
    whole_runs.ran("simulated", "rounds=1", *MASKED)
    node_keys.make(Path("keys"), 4)
    whole_runs.ran("one machine", "rounds=1", *MASKED, "runtime.keys=keys")
    monkeypatch.setattr(in_process, "start", at_home(2))
    two = ["rounds=2", "runtime.nodes=2", "runtime.secure_sum=true", "runtime.keys=server"]
    whole_runs.ran("deployed", *two)
    told = {
        "plain": ("the server saw each node's sum", "the server sees each node's sum"),
        "simulated": ("keys at the server, which hide nothing", "is no secure aggregation"),
        "one machine": ("keys at the server, which hide nothing", "is no secure aggregation"),
        "deployed": ("the server saw only the sum over 2 nodes", "saw only the sum over all 2"),
    }
    for name, (short, sentence) in told.items():
        capsys.readouterr()
        assert cli.main(["verify", name]) == 0
        assert f"Trust model: {short}" in " ".join(capsys.readouterr().out.split()).replace(
            "masked sums over 4 nodes, with ", ""
        )
        assert sentence in whole_runs.stated(Path(name))["trust_model"]
        assert sentence in (Path(name) / "adapter" / "README.md").read_text()
    assert left_keys() == []


def test_the_trust_model_is_bound_to_the_ledger(capsys):
    whole_runs.ran("run", "rounds=1", *MASKED)
    config = Path("run/config.yaml")
    text = config.read_text()
    config.write_text(text.replace("secure_sum: true", "secure_sum: false"))
    capsys.readouterr()
    whole_runs.check_refused(capsys, ["verify", "run"], "secure_sum.nodes: 4 in the ledger")
    config.write_text(text)
    statement = Path("run/privacy_statement.json")
    stated = json.loads(statement.read_text())
    better = stated["trust_model"].replace("hides nothing", "hides all")
    statement.write_text(json.dumps({**stated, "trust_model": better}))
    whole_runs.check_refused(capsys, ["verify", "run"], "trust_model")


@contextlib.contextmanager
def failing(number, partition):
    """The node of this partition fails in round ``number``, before it answers."""
    honest = Host.train

    def train(self, message, place):
        if (message.metadata.group_id, place.partition) == (str(number), partition):
            raise ValueError("a record")
        return honest(self, message, place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Host, "train", train)
        yield


@pytest.mark.parametrize("keys", [None, "keys"])
def test_a_missing_node_stops_the_run_which_goes_on_with_a_new_round(capsys, keys):
    options = ["rounds=3", *MASKED, *([f"runtime.keys={keys}"] if keys else [])]
    if keys:
        node_keys.make(Path(keys), 4)
    with failing(2, 3):
        assert cli.main(["run", *small_world.overrides("output=run", *options)]) == 1
    [line] = [x for x in capsys.readouterr().err.splitlines() if x.startswith("userdp: stopped")]
    assert "Round 2: 1 node(s) failed twice; nothing was released" in line
    before = ledger.verify(Path("run/ledger.jsonl"))
    assert (before.rounds, before.unfinished) == (2, (2,))
    assert cli.main(["run", "resume=run"]) == 0
    assert cli.main(["verify", "run"]) == 0
    after = ledger.verify(Path("run/ledger.jsonl"))
    assert (after.rounds, after.unfinished) == (3, (2,))
    assert after.entries[0] == before.entries[0]
    if keys:
        run = after.entries[0]["hash"]
        for partition in range(4):
            answered = json.loads(Path(keys, f"node-{partition}.answered.json").read_text())
            assert answered == {run: 3}
    assert left_keys() == []


def test_a_killed_round_is_not_repeated(capsys):
    node_keys.make(Path("keys"), 4)
    whole_runs.stopped("run", 2, "rounds=3", *MASKED, "runtime.keys=keys")
    assert cli.main(["run", "resume=run"]) == 0
    assert ledger.verify(Path("run/ledger.jsonl")).unfinished == (2,)
    assert left_keys() == []


def test_nodes_built_from_the_configuration_alone_sum_to_the_same(monkeypatch, capsys):
    """As in other processes: an app of its own for each node, with keys named in the config."""
    seen = []

    @contextlib.contextmanager
    def start(nodes):
        apps = [nodes.make_app(nodes.config) for _ in range(nodes.count)]
        keys = Path(nodes.config["runtime"]["keys"])
        seen.append((keys, oct(keys.stat().st_mode & 0o777)))

        def app(message, context):
            return apps[int(context.node_config["partition-id"])](message, context)

        yield in_process.InProcessGrid(app, nodes.count)
        assert (keys / "node-1.answered.json").exists()

    common = ["privacy.reproducible=true", "runtime.nodes=2"]
    plain = whole_runs.ran("plain", *common)
    monkeypatch.setattr(in_process, "start", start)
    masked = whole_runs.ran("masked", *common, "runtime.secure_sum=true")
    np.testing.assert_allclose(
        whole_runs.adapter(masked), whole_runs.adapter(plain), rtol=1e-6, atol=1e-7
    )
    [(keys, mode)] = seen
    assert mode == "0o700"
    assert not keys.exists()
    assert str(keys) not in (masked / "config.yaml").read_text()


def test_a_node_of_another_roster_is_refused_before_a_round_is_spent(monkeypatch, capsys):
    node_keys.make(Path("keys"), 2)
    node_keys.make(Path("others"), 2)

    @contextlib.contextmanager
    def start(nodes):
        apps = [nodes.app]
        config = {**nodes.config, "runtime": {**nodes.config["runtime"], "keys": "others"}}
        apps.append(nodes.make_app(config))

        def app(message, context):
            return apps[int(context.node_config["partition-id"])](message, context)

        yield in_process.InProcessGrid(app, nodes.count)

    monkeypatch.setattr(in_process, "start", start)
    options = ["output=run", "runtime.nodes=2", "runtime.secure_sum=true", "runtime.keys=keys"]
    assert cli.main(["run", *small_world.overrides(*options)]) == 1
    assert "has another list of keys than the run" in capsys.readouterr().err
    assert ledger.verify(Path("run/ledger.jsonl")).rounds == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["runtime.secure_sum=true"], ["runtime.nodes=1", "two or more"]),
        ([*MASKED, "runtime.drop_failed_nodes=true"], ["runtime.drop_failed_nodes=true"]),
        (["runtime.keys=keys"], ["runtime.keys=keys", "secure_sum=true"]),
        ([*MASKED, "strategy=concentrated"], ["runtime.secure_sum=true", "every unit"]),
        (
            [*MASKED, "strategy=non_private", "privacy.epsilon=null"],
            ["runtime.secure_sum=true", "finite clip norm"],
        ),
        (
            [
                *(*MASKED, "privacy.users=10000000000", "privacy.epsilon=null"),
                "privacy.noise_multiplier=1",
            ],
            ["runtime.secure_sum=true", "fewer users"],
        ),
        ([*MASKED, "runtime.keys=nowhere"], ["runtime.keys=nowhere", "roster.json"]),
        ([*MASKED, "runtime.nodes=3", "runtime.keys=keys"], ["roster has 4 nodes", "nodes=3"]),
    ],
    ids=["one node", "dropped", "keys alone", "rows", "unclipped", "users", "no keys", "nodes"],
)
def test_what_cannot_be_masked_is_refused_before_a_run_begins(capsys, options, told):
    node_keys.make(Path("keys"), 4)
    small_world.model()
    arguments = small_world.overrides("output=run", *options)
    whole_runs.check_refused(capsys, ["run", *arguments], *told)
    assert not Path("run").exists()


def test_a_resume_with_other_nodes_or_without_masks_is_refused(capsys):
    whole_runs.stopped("run", 2, *MASKED)
    capsys.readouterr()
    for change in ("runtime.nodes=3", "runtime.secure_sum=false"):
        assert cli.main(["run", "resume=run", change]) == 2
        assert "secure_sum" in capsys.readouterr().err


def test_a_private_key_that_others_can_read_stops_before_a_round(capsys):
    node_keys.make(Path("keys"), 4)
    os.chmod("keys/node-2.key", 0o644)
    arguments = small_world.overrides("output=run", *MASKED, "runtime.keys=keys")
    assert cli.main(["run", *arguments]) == 1
    assert ledger.verify(Path("run/ledger.jsonl")).rounds == 0


def test_the_ledger_differs_by_one_field(capsys):
    """Found by its own comparison, which a resume uses too."""
    whole_runs.ran("plain", "rounds=1", "runtime.nodes=4", "privacy.reproducible=true")
    whole_runs.ran("masked", "rounds=1", *MASKED, "privacy.reproducible=true")
    headers = [ledger.verify(Path(name, "ledger.jsonl")).header for name in ("plain", "masked")]
    assert [d.split(":")[0] for d in hash_chain.differences(*headers)] == [
        "secure_sum.nodes",
        "secure_sum.keys",
    ]
