"""Runtimes are chosen by name; one of another package is named by its dotted name."""

from __future__ import annotations

import pytest
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from helpers import small_world
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import hydra_compose
from userdp.sim.runtime.registry import RUNTIMES, Nodes, holds_records


def counting(message, context):
    record = MetricRecord({"node": context.node_id})
    return Message(RecordDict({"n": record}), reply_to=message)


# Those whose nodes are elsewhere need them there: ``test_superlink_faults.py``.
HERE = [name for name in RUNTIMES if not holds_records(name)]


@pytest.mark.parametrize("name", HERE)
def test_every_runtime_opens_a_grid_whose_nodes_answer(name):
    app = ClientApp()
    app.train()(counting)
    nodes = Nodes(count=3, app=app, config={}, make_app=lambda _: app)
    with RUNTIMES.find(name)(nodes) as grid:
        ids = list(grid.get_node_ids())
        sent = [Message(RecordDict(), dst_node_id=node, message_type="train") for node in ids]
        replies = list(grid.send_and_receive(sent))
    assert len(set(ids)) == 3
    assert [reply.content["n"]["node"] for reply in replies] == ids


def test_the_configuration_takes_names_of_the_table_and_dotted_names():
    for kind in ("in_process", "another_package.ray.start"):
        settings, _ = hydra_compose.settings(small_world.overrides(f"runtime.kind={kind}"))
        assert settings.runtime.kind == kind


def test_a_name_that_no_runtime_has_is_refused_when_it_is_given():
    with pytest.raises(ConfigurationError, match=r"runtime.kind=rya: choose one of in_process"):
        hydra_compose.settings(small_world.overrides("runtime.kind=rya"))
