"""A worker of a SuperNode that does what a file tells it: answers well, lies, sleeps or dies.

``python -m helpers.lying_node FOLDER WORDS``, where WORDS are those of ``userdp node``. The word in
``FOLDER/mode`` is read at each message; ``FOLDER/reached`` appears when a message has come.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord

from userdp.clients.app import client_app
from userdp.sim.data.sources import shard as shards
from userdp.sim.federation import node
from userdp.sim.runtime import link_options
from userdp.sim.runtime.flower_api import Endpoint
from userdp.sim.runtime.flower_node import NodeTasks


def _changed(reply, change):
    """The reply with every tensor of its sum changed."""
    arrays = reply.content.array_records["clipped_sum"]
    changed = {name: Array(change(array.numpy())) for name, array in arrays.items()}
    reply.content["clipped_sum"] = ArrayRecord(changed)
    return reply


def _old(reply):
    reply.metadata.__dict__["_group_id"] = "0"
    return reply


LIES = {
    "norm": lambda reply: _changed(reply, lambda array: array * 1e6 + 1.0),
    "nan": lambda reply: _changed(reply, lambda array: array * np.nan),
    "shape": lambda reply: _changed(reply, lambda array: array.reshape(-1)[:-1]),
    "single": lambda reply: _changed(reply, lambda array: array.astype(np.float32)),
    "old": _old,
}


class LyingApp:
    """An app around an honest one."""

    def __init__(self, honest, folder):
        self._honest, self._folder = honest, folder

    def __call__(self, message, context):
        mode = self._mode()
        if message.metadata.message_type != "train":
            return self._honest(message, context)
        (self._folder / "reached").touch()
        while mode == "hold":
            time.sleep(0.05)
            mode = self._mode()
        if mode == "die":
            os._exit(1)
        if mode == "raise":
            raise ValueError("a record: quizzaciously")
        reply = self._honest(message, context)
        return LIES[mode](reply) if mode in LIES else reply

    def _mode(self):
        return (self._folder / "mode").read_text().strip()


def main(folder, words):
    options = dict(word.partition("=")[::2] for word in words)
    reached = {name: options.get(name) for name in ("certificate", "secret")}
    reached |= {"address": options["supernode"], "insecure": options.get("insecure") == "True"}
    shard = shards.read(options["shard"])
    host = node.load(node.settings_of(Path(options["shard"]), []))
    print(node.READY, flush=True)
    app = LyingApp(client_app(host), Path(folder))
    node.serve(
        NodeTasks(Endpoint(**link_options.endpoint(reached, ""))), node.answering(app, shard)
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
