"""The ClientApp that lives in a process of its own: built there once, from a text alone.

A runtime whose nodes are other processes sends each of them a text (a configuration) and the name
of a function that makes a ClientApp of it. The base model is thus loaded once a process and never
travels, and records are mapped from the cache. Only the latest app is kept: of the jobs of a
multirun that one process serves, the models of the earlier ones are let go.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from userdp.sim.common.errors import ConfigurationError, NodeError, located

Handler = Callable[[Message, Context], Message]

_LATEST: dict[str, ClientApp] = {}  # the text -> its app; of this process
_BUILDING = threading.Lock()


def app(text: str, make: Callable[[str], ClientApp]) -> Handler:
    """The app of a text, built by this process's first call; its errors carry no text.

    Args:
        text: all that the app depends on.
        make: builds the app of a text. Both are pickled by reference where the caller sends them.

    Raises:
        ConfigurationError: of ``make``.
        NodeError: another error of ``make``, by its class and place.
    """
    with _BUILDING:
        if text not in _LATEST:
            _LATEST.clear()  # before the next is built: two models may not fit
            _LATEST[text] = _guarded(make, text)
        found = _LATEST[text]
    return lambda message, context: _guarded(found, message, context)


def from_json(make_app: Callable[[Mapping[str, Any]], ClientApp], text: str) -> ClientApp:
    """The app that ``make_app`` builds from a configuration, plain values in JSON."""
    return make_app(json.loads(text))


def _guarded(call: Callable[..., Any], *arguments: object) -> Any:
    """The result of a call; of an error that is not ours, class and place alone are passed on.

    Raises:
        ConfigurationError: passed through; its text quotes no record.
        NodeError: any other error.
    """
    try:
        return call(*arguments)
    except (ConfigurationError, NodeError) as error:
        raise type(error)(str(error)) from None  # without what it was raised from
    except Exception as error:
        raise NodeError(located(error)) from None
