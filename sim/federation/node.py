"""`userdp node`: answers all messages to one SuperNode, from a model and records loaded once.

The SuperNode runs with ``--isolation process`` and gives its messages to this process. What a node
computes is decided by the userdp that is installed beside it, and by its own configuration: nothing
of the app bundle that a run sends is installed, imported or run.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from userdp.clients.app import PARTITION, PARTITIONS, Host, client_app
from userdp.sim.common import third_party
from userdp.sim.common.errors import ConfigurationError, NodeError, located
from userdp.sim.config import command_options, hydra_compose
from userdp.sim.config.settings import Settings
from userdp.sim.data.sources import shard as shards
from userdp.sim.data.sources.shard import Shard
from userdp.sim.federation import words
from userdp.sim.run import node_setup
from userdp.sim.runtime import flower_api, link_options
from userdp.sim.runtime.flower_api import Endpoint
from userdp.sim.runtime.flower_node import Answer, NodeTasks

_LOG = logging.getLogger("userdp")
READY = "is ready"  # printed when the node answers messages
# Seconds between two questions whether a message waits; the SuperNode asks for one every 3 seconds.
_PAUSE = 0.5
_PATIENCE = 1.0  # seconds to wait after a question that failed


@dataclass(frozen=True, kw_only=True)
class NodeOptions:
    """Options of `userdp node`."""

    shard: str | None = None  # folder of the node's records
    supernode: str | None = None  # host:port of the SuperNode's runtime interface
    certificate: str | None = None  # PEM, of the authority that signed the SuperNode's
    secret: str | None = None  # of the SuperNode's --superexec-auth-secret-file
    insecure: bool = False  # without encryption; on this machine alone


def main(arguments: Sequence[str]) -> NoReturn:
    """Load model and records, and answer messages until the process is ended.

    Args:
        arguments: options of `NodeOptions`, and overrides of the shard's configuration.

    Raises:
        ConfigurationError: an option, the shard or the configuration is wrong.
    """
    names = [field.name for field in dataclasses.fields(NodeOptions) if field.name != "insecure"]
    given, overrides = words.split(arguments, names, ["insecure"])
    options = command_options.parsed(NodeOptions, given, "node: ")
    if options.shard is None or options.supernode is None:
        raise ConfigurationError(
            "node: give shard=FOLDER, the records of this node, and supernode=HOST:PORT."
        )
    asked = {
        "address": options.supernode,
        "certificate": options.certificate,
        "secret": options.secret,
        "insecure": options.insecure,
    }
    endpoint = Endpoint(**link_options.endpoint(asked, "node: "))
    shard = shards.read(options.shard)
    if shard.part is None:
        raise ConfigurationError(
            f"node: shard={options.shard}: it holds the server's records; name a node's folder."
        )
    host = load(settings_of(Path(options.shard), overrides))
    print(f"userdp: node {shard.part} of {shard.parts} {READY}", flush=True)
    serve(NodeTasks(endpoint), answering(client_app(host), shard))


def settings_of(folder: Path, overrides: Sequence[str]) -> Settings:
    """The configuration of a node: that of the command which cut its shard, and overrides.

    Raises:
        ConfigurationError: a value does not fit, or another part of data is asked for.
    """
    of_data = [word for word in overrides if word.lstrip("+~").startswith(("data=", "data."))]
    if of_data:
        raise ConfigurationError(f"{of_data[0]}: a node's shard says what its data are.")
    given = [*shards.read(str(folder)).words, *data_words(folder), *overrides]
    settings, _ = hydra_compose.settings(given)
    return settings


def data_words(folder: Path) -> list[str]:
    """The overrides by which a command reads a shard."""
    return ["data=shard", words.override("data.path", str(folder))]


def load(settings: Settings) -> Host:
    """Model and records of a node.

    Raises:
        ConfigurationError: data or model do not fit the configuration.
    """
    third_party.libraries()
    host = node_setup.host_of_process(settings)
    cut = shards.read(settings.data.path).cut
    return dataclasses.replace(host, own_users=True, population_id=cut)


def answering(app: ClientApp, shard: Shard) -> Answer:
    """What answers a message: the app, or an error reply where it fails.

    The text of an error goes to the server only where it is our own, which quotes no record.
    """

    def answer(message: Message, context: Context) -> Message:
        try:
            _check_place(context, shard)
            return app(message, context)
        except Exception as error:
            ours = isinstance(error, NodeError | ConfigurationError)
            _LOG.error("The node failed: %s.", error if ours else located(error))
            reason = str(error) if ours else type(error).__name__
            return flower_api.error_reply(message, flower_api.CLIENT_APP_RAISED, reason)

    return answer


def _check_place(context: Context, shard: Shard) -> None:
    """Refuse to stand for other users than those whose records are here."""
    place = tuple(context.node_config.get(name) for name in (PARTITION, PARTITIONS))
    if place != (shard.part, shard.parts):
        raise ConfigurationError(
            f'the SuperNode was started with --node-config "{PARTITION}={place[0]} '
            f'{PARTITIONS}={place[1]}", and its shard is part {shard.part} of {shard.parts}'
        )


def serve(tasks: NodeTasks, answer: Answer, wait: Callable[[float], None] = time.sleep) -> NoReturn:
    """Answer messages for ever; a SuperNode that does not answer is waited for, and told once.

    Args:
        wait: for some seconds.
    """
    told: str | None = None
    while True:
        try:
            pause, reason = 0.0 if tasks.answer_next(answer) else _PAUSE, None
        except Exception as error:  # of one message: the next is answered all the same
            known = isinstance(error, flower_api.FAILED)
            pause, reason = _PATIENCE, flower_api.refusal(error) if known else located(error)
        if reason not in (None, told):
            _LOG.warning("the SuperNode: %s", reason)
        told = reason
        wait(pause)
