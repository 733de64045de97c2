"""Small sweeps by the command."""

from __future__ import annotations

from pathlib import Path

from helpers import small_world
from userdp.server.ledger import ledger
from userdp.sim import cli

GRID = ["cohort=4,6", "seed=1,2", "output=mine"]


def sweep(*overrides: str) -> int:
    return cli.main(["run", "-m", *small_world.overrides(*overrides)])


def stamps() -> dict[str, tuple[int, str]]:
    """Rounds and last entry of every ledger."""
    found = {}
    for path in sorted(Path("mine").glob("*/ledger.jsonl")):
        account = ledger.verify(path)
        found[path.parent.name] = (account.rounds, account.head)
    return found
