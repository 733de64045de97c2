"""Runtimes are chosen by name; one of another package is named by its dotted name."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from helpers import small_apps, small_world
from userdp.sim import cli
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import hydra_compose
from userdp.sim.runtime import flower, registry
from userdp.sim.runtime.in_process import InProcessGrid
from userdp.sim.runtime.registry import RUNTIMES, Asked, Nodes, holds_records

SLOW = {"ray"}  # starts processes
STARTED_BY_FLOWER = {"flower"}
# Those whose nodes are elsewhere need them there: ``test_superlink_faults.py``.
HERE = [name for name in RUNTIMES if not holds_records(name)]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in HERE],
)
def test_every_runtime_opens_a_grid_whose_nodes_answer(name):
    app, config = small_apps.make({}), {"device": "cpu"}
    nodes = Nodes(count=3, app=app, config=config, make_app=small_apps.make)
    given = flower.given(InProcessGrid(app, 3)) if name in STARTED_BY_FLOWER else None
    with given or contextlib.nullcontext(), RUNTIMES.find(name)(nodes) as grid:
        ids = list(grid.get_node_ids())
        what = RecordDict({"what": ConfigRecord({"do": "answer"})})
        sent = [Message(what, dst_node_id=node, message_type="train") for node in ids]
        replies = list(grid.send_and_receive(sent))
    assert len(set(ids)) == 3
    assert sorted(reply.metadata.src_node_id for reply in replies) == sorted(ids)
    told = [dict(reply.content["n"]) for reply in replies]
    assert [each["node"] for each in told] == [reply.metadata.src_node_id for reply in replies]
    assert sorted(each["place"] for each in told) == [0, 1, 2]


@pytest.mark.parametrize("name", list(RUNTIMES))
def test_every_runtime_refuses_options_that_it_does_not_have(name):
    with pytest.raises(ConfigurationError, match=r"runtime.options.speed=3: no option of runtime"):
        registry.check(name, Asked(nodes=1, options={"speed": 3}, device="cpu"))


def test_a_run_asks_its_runtime_before_its_folder_exists(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = small_world.overrides("output=refused", "+runtime.options.speed=3")
    assert cli.main(["run", *words]) == 2
    assert "runtime.options.speed=3" in capsys.readouterr().err
    assert not Path("refused").exists()


def test_the_configuration_takes_names_of_the_table_and_dotted_names():
    for kind in ("in_process", "another_package.ray.start"):
        settings, _ = hydra_compose.settings(small_world.overrides(f"runtime.kind={kind}"))
        assert settings.runtime.kind == kind


def test_a_name_that_no_runtime_has_is_refused_when_it_is_given():
    with pytest.raises(ConfigurationError, match=r"runtime.kind=rya: choose one of in_process"):
        hydra_compose.settings(small_world.overrides("runtime.kind=rya"))
