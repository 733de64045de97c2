"""An app is built once a process for each configuration, and its errors carry no text."""

from __future__ import annotations

import functools
import traceback

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from helpers import small_apps
from userdp.sim.common.errors import ConfigurationError, NodeError
from userdp.sim.runtime import resident
from userdp.sim.runtime.in_process import InProcessGrid


def served(do="answer", text='{"which": 1}', make=small_apps.make):
    InProcessGrid(small_apps.make({}), 1)  # names this process a server, which makes messages
    content = RecordDict({"what": ConfigRecord({"do": do})})
    message = Message(content, dst_node_id=2, message_type="train")
    context = Context(0, 2, {"partition-id": 0}, RecordDict(), {})
    handler = resident.app(text, functools.partial(resident.from_json, make))
    return handler(message=message, context=context)


def test_a_text_is_built_once_and_only_the_latest_is_kept():
    built = []

    def make(config):
        built.append(config["which"])
        return small_apps.make(config)

    for which in (1, 1, 2, 2, 1):
        served(text=f'{{"which": {which}}}', make=make)
    assert built == [1, 2, 1]
    assert list(resident._LATEST) == ['{"which": 1}']


@pytest.mark.parametrize("do_or_make", ["raise", {"broken": True}])
def test_an_error_of_the_app_or_of_its_building_has_a_class_and_a_place_and_no_text(do_or_make):
    broken = not isinstance(do_or_make, str)
    text = '{"broken": true}' if broken else '{"which": 3}'
    with pytest.raises(NodeError, match=r"(KeyError|ValueError) at .*small_apps.py") as caught:
        served(do="answer" if broken else do_or_make, text=text)
    assert "locker" not in "".join(traceback.format_exception(caught.value))


def test_an_error_of_the_configuration_keeps_its_line_and_loses_what_it_was_raised_from():
    def make(config):
        try:
            raise KeyError(small_apps.MARKER)
        except KeyError as error:
            raise ConfigurationError("data.path=none: there is no such file") from error

    with pytest.raises(ConfigurationError, match="no such file") as caught:
        served(text='{"which": 4}', make=make)
    assert "locker" not in "".join(traceback.format_exception(caught.value))
