"""The runtime over a SuperLink without one: options, the app bundle, replies and what stands in."""

from __future__ import annotations

import io
import json
import zipfile
from types import SimpleNamespace

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.cli.config_utils import get_fab_config
from flwr.supercore.task_identity import TaskIdentity

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import hydra_compose
from userdp.sim.runtime import flower_api, link_options, registry, superlink
from userdp.sim.runtime.registry import Asked
from userdp.sim.runtime.superlink import SuperLinkGrid

ADDRESS = "127.0.0.1:9092"


def refused(options, text):
    with pytest.raises(ConfigurationError, match=text):
        link_options.read(options)


def test_unknown_and_wrong_options_are_refused_by_name():
    refused({"colour": "red"}, r"runtime\.options\.colour=red: no option")
    refused({"address": 7}, r"runtime\.options\.address=7: should be a text")
    refused({"insecure": "yes"}, r"runtime\.options\.insecure=yes: should be true or false")
    refused({}, "address is missing")
    for address in ("there", "there:", ":80", "there:0", "there:70000", "there:x"):
        refused({"address": address}, "should be host:port")


def test_plain_connections_are_within_this_machine_and_asked_for(tmp_path):
    authority = tmp_path / "ca.pem"
    authority.write_text("PEM")
    refused({"address": ADDRESS}, "certificate is missing")
    refused({"address": "example.org:80", "insecure": True}, "not on this machine")
    refused({"address": "0.0.0.0:80", "insecure": True}, "not on this machine")
    refused({"address": ADDRESS, "insecure": True, "certificate": str(authority)}, "leave out one")
    plain = link_options.read({"address": ADDRESS, "insecure": True, "certificate": None})
    assert plain == {"address": ADDRESS, "certificate": None, "secret": None}
    safe = link_options.read({"address": "example.org:80", "certificate": str(authority)})
    assert safe["certificate"] == b"PEM"


def test_files_that_cannot_be_read_are_named(tmp_path):
    refused({"address": ADDRESS, "certificate": str(tmp_path / "none")}, "certificate=.*none")
    (tmp_path / "empty").touch()
    options = {"address": ADDRESS, "insecure": True, "secret": str(tmp_path / "empty")}
    refused(options, "secret=.*the file is empty")


def test_a_federations_folder_says_it_all(tmp_path):
    folder = {"federation": str(tmp_path)}
    refused(folder, "no federation runs there")
    for damaged in ("", "[]", '{"superlink": 1}', '{"superlink": {"address": 3}}', "[" * 10**5):
        (tmp_path / link_options.STATE).write_text(damaged)
        refused(folder, "is damaged")
    link = {"address": ADDRESS, "insecure": True}
    (tmp_path / link_options.STATE).write_text(json.dumps({"superlink": link}))
    assert link_options.read(folder)["address"] == ADDRESS
    refused({**folder, "address": ADDRESS}, "give one of the two")
    link["address"] = "example.org:80"  # a state file does not allow what an option may not
    (tmp_path / link_options.STATE).write_text(json.dumps({"superlink": link}))
    refused(folder, "not on this machine")


def test_the_configuration_of_the_runtime_is_read_as_it_is_written():
    settings, _ = hydra_compose.settings(["runtime=superlink", "runtime.options.address=a:1"])
    assert registry.holds_records(settings.runtime.kind)
    assert not registry.holds_records("in_process")
    refused(settings.runtime.options, "certificate is missing")


def test_nobody_listening_is_told_before_a_run_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(superlink, "_PATIENCE", 0.0)
    options = {"address": "127.0.0.1:1", "insecure": True}
    with pytest.raises(ConfigurationError, match="it does not answer"):
        superlink.check(Asked(nodes=4, options=options, device="cpu"))


def test_the_bundle_names_the_app_and_nothing_of_the_run():
    bundle = superlink.app_bundle()
    assert bundle == superlink.app_bundle()
    config = get_fab_config(bundle)
    app = config["tool"]["flwr"]["app"]
    assert app["components"] == {
        "serverapp": "userdp.sim.flower_app:server_app",
        "clientapp": "userdp.sim.flower_app:client_app",
    }
    assert app["config"] == {"served-by": "userdp node"}
    names = zipfile.ZipFile(io.BytesIO(bundle)).namelist()
    assert names == ["pyproject.toml", ".info/CONTENT"]  # no code


class Link:
    """Stands for the calls of a SuperLink: replies by message, and when nodes came."""

    def __init__(self):
        self.since, self.replies, self.pulled, self.known = {1: "a", 2: "a"}, {}, [], {1, 2}
        self.sent = {}

    def grid(self):
        grid = object.__new__(SuperLinkGrid)
        grid.online_since = lambda: dict(self.since)
        grid.push_messages, grid.pull_messages = self.push, self.pull
        return grid

    def push(self, messages):
        [message] = messages
        if message.metadata.dst_node_id not in self.known:
            return [""]
        name = f"m{len(self.sent)}"
        self.sent[name] = message
        return [name]

    def pull(self, names):
        self.pulled.append(list(names))
        return [self.replies.pop(name) for name in names if name in self.replies]


def message(node):
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, 1, 1
    return Message(RecordDict({"x": ConfigRecord({"n": 1})}), node, "train", group_id="1")


def reply(name, error=None):
    metadata = SimpleNamespace(reply_to_message_id=name)
    return SimpleNamespace(metadata=metadata, has_error=lambda: error is not None)


@pytest.fixture
def link(monkeypatch):
    monkeypatch.setattr(superlink, "_PAUSE", 0.001)
    monkeypatch.setattr(superlink, "_LOOK", 0.01)
    monkeypatch.setattr(superlink, "_RETURN", 0.05)
    return Link()


def test_replies_come_as_they_come_and_each_once(link):
    replies = link.grid().send_and_receive([message(1), message(2)])
    link.replies = {"m1": reply("m1")}
    assert next(replies).metadata.reply_to_message_id == "m1"
    link.replies = {"m0": reply("m0"), "m1": reply("m1")}
    assert [one.metadata.reply_to_message_id for one in replies] == ["m0"]


def test_few_replies_are_in_memory_at_a_time(link):
    link.known = set(range(30))
    link.replies = {f"m{n}": reply(f"m{n}") for n in range(30)}
    replies = link.grid().send_and_receive([message(n) for n in range(30)])
    next(replies)
    assert max(map(len, link.pulled)) <= superlink._AT_ONCE == 8
    assert len(link.pulled) == 1  # nothing more is fetched before it is asked for
    assert len([*replies]) == 29


def test_a_reply_to_a_message_of_another_run_is_not_seen(link):
    link.replies = {"m0": reply("other"), "m1": reply("m1")}
    replies = link.grid().send_and_receive([message(1), message(2)], timeout=0.05)
    assert [one.metadata.reply_to_message_id for one in replies] == ["m1"]


def test_a_node_that_is_not_there_or_was_started_again_gets_an_error_reply(link):
    link.known = {1}
    replies = link.grid().send_and_receive([message(1), message(2)])
    assert next(replies).has_error()  # of node 2, which the SuperLink does not know
    link.since[1] = "b"
    [lost] = replies
    assert lost.has_error()
    assert lost.error.code == flower_api.NODE_UNAVAILABLE
    assert link.replies == {}


def test_a_node_that_is_coming_back_is_waited_for(link):
    looks = []

    def online():
        looks.append(1)
        return link.since if len(looks) > 3 else {1: "a"}

    grid = link.grid()
    grid.online_since = online
    link.replies = {"m0": reply("m0")}
    [one] = grid.send_and_receive([message(2)])
    assert (one.metadata.reply_to_message_id, len(looks)) == ("m0", 4)


def test_a_time_limit_ends_it(link):
    assert [*link.grid().send_and_receive([message(1)], timeout=0.02)] == []
