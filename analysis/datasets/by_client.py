"""Makes one record a line of a file that maps each client to a list of records (FedLLM-Bench).

    python -m userdp.analysis.datasets.by_client aya_38c_25k.json fed_aya.jsonl

A record keeps its fields, and ``client`` is added. Turns as ``{"from": "human", "value": ...}``
become messages with a role and a content: ``conversations`` becomes ``messages``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from userdp.analysis.datasets import download
from userdp.sim.common import durable_file

_ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


def records(clients: Any) -> Iterator[dict[str, Any]]:
    """The records of all clients, in their order.

    Raises:
        SourceError: it is not a list of objects for each client.
    """
    if not isinstance(clients, Mapping):
        raise download.SourceError("Expected one JSON object: client -> list of records.")
    for client, rows in clients.items():
        if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
            raise download.SourceError("Expected a list of objects for each client.")
        for row in rows:
            yield {"client": client, **_with_messages(row)}


def _with_messages(row: Mapping[str, Any]) -> dict[str, Any]:
    turns = row.get("conversations")
    if not isinstance(turns, list):
        return dict(row)
    messages = [
        {"role": _ROLES.get(turn.get("from"), turn.get("from")), "content": turn.get("value")}
        for turn in turns
    ]
    rest = {name: value for name, value in row.items() if name != "conversations"}
    return {**rest, "messages": messages}


def main(given: Sequence[str] | None = None) -> None:
    """Read the file of all clients and write the lines.

    Raises:
        SourceError: the file is no such file.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args(given)
    try:
        clients = json.loads(options.source.read_bytes())
    except (OSError, ValueError) as error:
        reason = type(error).__name__
        raise download.SourceError(f"{options.source}: cannot be read ({reason}).") from None
    with durable_file.text(options.output) as file:
        for row in records(clients):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    download.run(main)
