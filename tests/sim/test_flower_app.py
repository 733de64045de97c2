"""The Flower app: one key configures both parts of it, and its run is that of the command."""

from __future__ import annotations

import json
import shlex
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.object_ref import load_app, validate

from helpers import small_world
from helpers.whole_runs import adapter, check_refused, ran, stated
from userdp.server.strategy import PrivateStrategy
from userdp.sim import cli, flower_app
from userdp.sim.common.errors import ConfigurationError, NodeError, StoppedError
from userdp.sim.run import node_setup, runner
from userdp.sim.runtime.in_process import InProcessGrid

pytestmark = pytest.mark.slow  # whole runs

ROOT = Path(__file__).parents[2]
REPEATABLE = ("privacy.reproducible=true", "privacy.users=25")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERDP_CACHE", str(small_world.folder() / "cache"))


def grid_of(app, run_config, nodes=2):
    """Flower's nodes, which hand the run configuration to their app."""
    grid = InProcessGrid(app, nodes)
    for node, context in grid._contexts.items():
        grid._contexts[node] = Context(0, node, context.node_config, RecordDict(), dict(run_config))
    return grid


def started(*words, app=flower_app.client_app, nodes=2, whole=True):
    """A run as Flower starts it."""
    text = shlex.join(small_world.overrides(*words) if whole else words)
    run_config = {flower_app.KEY: text}
    context = Context(0, 1, {}, RecordDict(), run_config)
    flower_app.server_app(grid_of(app, run_config, nodes), context)


def test_a_run_that_flower_starts_gives_what_the_command_gives(capsys):
    started(*REPEATABLE, "output=flower")
    assert f"userdp: the run folder is {Path('flower').absolute()}" in capsys.readouterr().out
    command = ran("command", *REPEATABLE, "runtime.nodes=2")
    np.testing.assert_array_equal(adapter(Path("flower")), adapter(command))
    assert stated(Path("flower"))["epsilon"] == stated(command)["epsilon"]
    config = (Path("flower") / "config.yaml").read_text()
    assert "kind: flower" in config
    assert cli.main(["verify", "flower"]) == 0


def test_every_process_builds_its_app_once_for_all_nodes_and_rounds(monkeypatch):
    built, build = [], node_setup.app_from_config
    monkeypatch.setattr(
        node_setup, "app_from_config", lambda config: built.append(1) or build(config)
    )
    started("output=run", "rounds=3", "runtime.nodes=4", nodes=4)
    assert built == [1]


def test_a_run_goes_on_by_flower_or_by_the_command_with_the_same_key(monkeypatch, capsys):
    add = PrivateStrategy._aggregated

    def failing(self, replies):
        if self.number == 2:
            raise RuntimeError("my locker code is 4711")
        return add(self, replies)

    with monkeypatch.context() as patch:
        patch.setattr(PrivateStrategy, "_aggregated", failing)
        with pytest.raises(NodeError, match=r"RuntimeError at .*test_flower_app") as caught:
            started("output=run", "rounds=3")
    assert "locker" not in str(caught.value)
    shutil.copytree("run", "other")
    capsys.readouterr()
    check_refused(capsys, ["run", "resume=run"], "runtime.kind=flower", "use flwr run")
    assert cli.main(["run", "resume=other", "runtime.kind=in_process"]) == 0
    started("resume=run", whole=False)
    for folder in ("run", "other"):
        lines = [json.loads(x) for x in Path(folder, "ledger.jsonl").read_text().splitlines()]
        assert [line["round"] for line in lines if line["kind"] == "intent"] == [1, 2, 3]
        assert cli.main(["verify", folder]) == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["rounds=0"], "rounds=0: should be at least 1"),
        (["runtime=ray"], "runtime=ray: flwr run makes one run on nodes of its own"),
        (["runtime.kind=in_process"], "runtime.kind=in_process: flwr run"),
        (["-m", "seed=1,2"], "-m: flwr run makes one run"),
        (["nonsense"], "nonsense: is not of the form name=value"),
        (["resume=nowhere"], "resume=nowhere: there is no"),
    ],
)
def test_a_wrong_configuration_ends_in_one_line_before_a_folder_exists(words, told, tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        started(*words, whole=not words[0].startswith("resume"))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("text", "told"), [("a='b", "No closing quotation"), (3, "a text")])
def test_a_key_that_holds_no_words_is_refused(text, told):
    with pytest.raises(ConfigurationError, match=told):
        flower_app.words({flower_app.KEY: text})
    assert flower_app.words({}) == []


def test_another_number_of_nodes_than_the_run_has_is_told(monkeypatch):
    with pytest.raises(StoppedError, match=r"runtime.nodes=2: the runtime has 3 after 0.1 seconds"):
        started("output=run", "runtime.patience=0.1", nodes=3)


def test_a_command_alone_cannot_use_the_nodes_of_flower(capsys):
    words = small_world.overrides("runtime=flower", "output=refused")
    check_refused(capsys, ["run", *words], "runtime.kind=flower", "use flwr run")
    assert not Path("refused").exists()


def test_mods_see_every_message_and_reply():
    seen = []

    def watch(message, context, call):
        reply = call(message, context)
        seen.append((message.metadata.message_type, sorted(reply.content)))
        return reply

    app = flower_app.make_client_app(mods=[watch])
    started("output=run", "rounds=1", "cohort=22", app=app)
    assert seen.count(("query", ["introduction"])) == 2
    assert seen.count(("train", ["clipped_sum", "simulation_only"])) == 2


def test_a_mod_that_lengthens_a_sum_is_refused_by_the_server():
    def lengthen(message, context, call):
        reply = call(message, context)
        if message.metadata.message_type == "train":
            arrays = reply.content["clipped_sum"]
            longer = {name: Array(array.numpy() + 1e6) for name, array in arrays.items()}
            reply.content["clipped_sum"] = ArrayRecord(longer)
        return reply

    with pytest.raises(StoppedError, match="is longer than"):
        started("output=run", "cohort=22", app=flower_app.make_client_app(mods=[lengthen]))


def test_another_strategy_is_told_before_a_model_is_loaded(monkeypatch):
    monkeypatch.setattr(runner, "run", None)
    monkeypatch.setattr(node_setup, "app_from_config", None)
    grid = grid_of(flower_app.client_app, {})
    [reply, _] = grid.send_and_receive(
        FedAvg().configure_train(1, ArrayRecord([np.zeros(2)]), ConfigRecord(), grid)
    )
    assert "serves userdp's PrivateStrategy alone: the message lacks adapter" in reply.error.reason


def test_flower_finds_both_apps_where_the_project_says():
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    for kind, expected in (("serverapp", "server_app"), ("clientapp", "client_app")):
        reference = table["components"][kind]
        assert validate(reference, project_dir=Path.cwd()) == (True, None)
        assert load_app(reference, ValueError) is getattr(flower_app, expected)
    assert table["config"] == {flower_app.KEY: ""}
