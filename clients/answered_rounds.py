"""Remembers the last round that a node answered, so that no mask is ever used for two sums.

Two vectors under one mask differ by the difference of their sums, in clear. A node therefore
answers rounds of a run in ascending order, each at most once, and notes a round before its reply
leaves. A reply that is lost on its way is lost: the round ends without a release.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import threading
from collections.abc import Iterator
from pathlib import Path

from userdp.clients import node_keys
from userdp.sim.common import durable_file
from userdp.sim.common.errors import ConfigurationError


class AnsweredError(ConfigurationError):
    """A node is asked for a round that it has answered, or for an earlier one."""


class AnsweredRounds:
    """The last answered round of each node and run: in a folder of keys, or in this process.

    Args:
        folder: of the nodes' keys; None keeps the rounds in memory, for nodes whose keys this
            process made and no other process uses.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._kept: dict[int, dict[str, int]] = {}
        self._busy = threading.Lock()

    def check(self, partition: int, run: str, number: int) -> None:
        """Check that a node may answer a round; nothing is noted.

        Raises:
            AnsweredError: it may not.
            ConfigurationError: the file of answered rounds is damaged.
        """
        last = self._read(partition).get(run, 0)
        if number <= last:
            raise AnsweredError(
                f"runtime.secure_sum=true: node {partition} is asked for round {number} of a run "
                f"of which it has answered round {last}, and a mask hides one sum only; resume the "
                "run, which goes on with a new round."
            )

    def note(self, partition: int, run: str, number: int) -> None:
        """Note that a node answers a round; on disk, where rounds are kept there, on return.

        Raises:
            AnsweredError: it has answered that round or a later one.
            ConfigurationError: the file of answered rounds is damaged.
        """
        with self._locked(partition):
            self.check(partition, run, number)
            rounds = {**self._read(partition), run: number}
            if self._folder is None:
                self._kept[partition] = rounds
            else:
                durable_file.replace(self._path(partition), json.dumps(rounds).encode(), mode=0o600)

    def _path(self, partition: int) -> Path:
        return Path(self._folder or "", f"node-{partition}.answered.json")

    def _read(self, partition: int) -> dict[str, int]:
        if self._folder is None:
            return self._kept.get(partition, {})
        path = self._path(partition)
        try:
            stored = json.loads(path.read_bytes())
            return {str(run): int(number) for run, number in stored.items()}
        except FileNotFoundError:
            return {}
        except (AttributeError, TypeError, ValueError):
            raise ConfigurationError(
                f"runtime.keys={self._folder}: {path.name} is damaged, so it is unknown which "
                "masks were used; make new keys for all nodes."
            ) from None

    @contextlib.contextmanager
    def _locked(self, partition: int) -> Iterator[None]:
        """Keep other threads out, and other processes that serve the same node."""
        if self._folder is None:
            with self._busy:
                yield
            return
        with node_keys.private_path(self._folder, partition).open("rb") as key:
            fcntl.flock(key, fcntl.LOCK_EX)
            yield
