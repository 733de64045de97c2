"""Small ClientApps; those without a model are for runtimes whose nodes are other processes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from userdp.clients.app import Host, client_app

MARKER = "my locker code is 4711"
_BUILT: list[int] = []  # of this process


def make(config: Mapping[str, Any]) -> ClientApp:
    """An app that does what a message's ``do`` says, and tells node, process and builds so far."""
    _BUILT.append(1)
    if config.get("broken"):
        raise KeyError(MARKER)
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        _do(message.content["what"]["do"], Path(str(config.get("folder", ""))))
        told = {
            "node": context.node_id,
            "place": int(context.node_config["partition-id"]),
            "process": os.getpid(),
            "built": len(_BUILT),
            "threads": int(os.environ.get("OMP_NUM_THREADS", 0)),
        }
        return Message(RecordDict({"n": MetricRecord(told)}), reply_to=message)

    return app


def by_part(*hosts: Host) -> ClientApp:
    """An app of several processes: each part of the users has a host of its own."""
    apps, app = [client_app(host) for host in hosts], ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return apps[int(context.node_config["partition-id"])](message, context)

    return app


def _do(what: str, folder: Path) -> None:
    """Answer at once, later, or not; ``die once`` leaves a file so that the next try answers."""
    if what == "raise":
        raise ValueError(f"cannot read {MARKER!r}")
    if what == "wait":
        time.sleep(3)
    if what == "wait for ever":
        (folder / "waiting").touch()
        time.sleep(600)
    if what == "die":
        os._exit(1)
    if what == "die once" and not (folder / "died").exists():
        (folder / "died").touch()
        os._exit(1)
