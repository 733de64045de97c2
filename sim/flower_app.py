"""The Flower app of userdp: `server_app` and `client_app`, which `flwr run` and SuperNodes load.

Both are configured by one key of Flower's run configuration, ``config``: the words that `userdp
run` would take, in one text.

    flwr run . --run-config 'config="privacy.epsilon=3 rounds=60 output=/runs/first"'

The ServerApp composes and checks them as `userdp run` does, and runs on the grid that Flower gives.
Every node composes the same words, and loads its model and records once a process.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from flwr.serverapp import Grid, ServerApp

from userdp.sim.common import third_party
from userdp.sim.common.errors import ConfigurationError, NodeError, StoppedError, located
from userdp.sim.protocol import messages
from userdp.sim.runtime import flower, resident

KEY = "config"  # of Flower's run configuration
_CHOSEN = ("runtime", "runtime.kind")  # by `flwr run`, and not by the words


def words(run_config: Mapping[str, Any]) -> list[str]:
    """The words of ``config``, cut as a shell cuts them.

    >>> words({"config": "data=jsonl 'data.path=my mail.jsonl'"})
    ['data=jsonl', 'data.path=my mail.jsonl']

    Raises:
        ConfigurationError: it is no text, lacks a quotation mark, or says what Flower decides.
    """
    text = run_config.get(KEY, "")
    if not isinstance(text, str):
        raise ConfigurationError(f"{KEY}={text}: should be a text of words, as userdp run has.")
    try:
        found = shlex.split(text)
    except ValueError as error:
        raise ConfigurationError(f"{KEY}={text}: {error}; quote it as for a shell.") from None
    for word in found:
        key = word.lstrip("+~").partition("=")[0]
        if key in _CHOSEN or word.startswith("-"):
            raise ConfigurationError(
                f"{word}: flwr run makes one run on nodes of its own; leave it out, or use userdp "
                "run."
            )
    return found


def make_client_app(mods: Sequence[Mod] = ()) -> ClientApp:
    """A ClientApp that serves the nodes of a process, built from the run configuration.

    Args:
        mods: Flower's modifiers; they see every message to a node and its reply. A reply is a sum
            without noise, and the server refuses one that is longer than its units' clips allow.
    """
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        messages.check_train(message)  # of another strategy: told before a model is loaded
        return _serve(message, context)

    @app.query()
    def query(message: Message, context: Context) -> Message:
        messages.check_introduction_request(message)
        return _serve(message, context)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return _serve(message, context)

    return app


def _serve(message: Message, context: Context) -> Message:
    """The reply of the app that these nodes' words describe."""
    text = shlex.join(words(context.run_config))
    return resident.app(text, _app)(message, context)


def _app(text: str) -> ClientApp:
    third_party.environment()
    from userdp.sim.config import validation
    from userdp.sim.run import node_setup  # slow to import

    _, config = _composed(shlex.split(text))
    return node_setup.app_from_config(validation.resolved(config))


def _composed(overrides: Sequence[str]) -> tuple[Any, Any]:
    """Settings and configuration of the words; where they resume a run, of the stored one.

    Raises:
        ConfigurationError: as `userdp run` with these words.
    """
    from userdp.sim.config import hydra_compose

    resumed = hydra_compose.value(overrides, "resume") is not None
    kind = f"runtime.kind={flower.NAME}" if resumed else f"runtime={flower.NAME}"
    return hydra_compose.settings([*overrides, kind] if resumed else [kind, *overrides])


def _run(grid: Grid, overrides: Sequence[str]) -> None:
    """One run, as `userdp run` makes it, on Flower's grid; its folder is printed first.

    A folder that is not absolute counts from the working folder of the process that Flower runs
    the ServerApp in: that of the SuperLink.
    """
    from userdp.sim.config import validation
    from userdp.sim.run import runner

    settings, config = _composed(overrides)
    folder = str(settings.folder.absolute())
    key = "output" if settings.resume is None else "resume"
    settings = dataclasses.replace(settings, **{key: folder})
    print(f"userdp: the run folder is {folder}", flush=True)
    with flower.given(grid):
        runner.run(settings, {**validation.resolved(config), key: folder})


server_app = ServerApp()
client_app = make_client_app()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the configuration on Flower's nodes; an error ends `flwr run` as failed, in one line.

    Raises:
        ConfigurationError: the configuration cannot run.
        StoppedError: the run stopped.
        NodeError: another error, by its class and place: Flower logs and sends the text of errors.
    """
    third_party.environment()
    try:
        _run(grid, words(context.run_config))
    except (ConfigurationError, StoppedError) as error:
        raise type(error)(str(error)) from None  # without what it was raised from
    except Exception as error:
        raise NodeError(located(error)) from None
