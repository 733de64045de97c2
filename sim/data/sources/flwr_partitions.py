"""Users as a partitioner of flwr-datasets cuts them: each partition holds the records of one user.

A module of the user's own makes the partitioner, and a run names the source in it:

    # my_users.py
    def make(path):
        partitioner = NaturalIdPartitioner(partition_by="speaker")
        partitioner.dataset = datasets.load_dataset("json", data_files=path, split="train")
        return partitioner

    SOURCE = PartitionSource(make)

    $ userdp run data=jsonl data.format=my_users.SOURCE data.path=mail.jsonl

The privacy unit is then the partition. A partitioner by natural id makes partitions of persons; one
that cuts at random, or by label, spreads a person over several, and no claim covers the person.
flwr-datasets is not needed here, nor installed with userdp: what is used is the public interface
of its partitioners, whose partitions are tables of the `datasets` library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from userdp.sim.common import cache
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data.sources.base import Opened, Row, Source, SourceRequest

_USER = "data.user"


class Partitioner(Protocol):
    """What is used of a partitioner; ``partition_id_to_natural_id`` only where there is one."""

    @property
    def num_partitions(self) -> int:
        """Number of partitions, which are numbered from 0."""
        ...

    def load_partition(self, partition_id: int) -> Any:
        """A partition, a `datasets.Dataset`."""
        ...


@dataclass(frozen=True)
class PartitionSource(Source):
    """Reads the partitions of a partitioner; ``data.user`` names the column for their ids.

    A column of this name that the data have is replaced: who a user is, the partitioner says.

    Args:
        make: ``data.path`` -> a partitioner with its data set.
    """

    make: Callable[[str | None], Partitioner]

    def check(self, request: SourceRequest) -> None:
        """Refuse records without users; raises as `Source.check` does."""
        if _USER not in request.columns:
            raise ConfigurationError(
                f"{_USER}=null: each partition is a user; name the column for their ids."
            )

    def open(self, request: SourceRequest, cache_folder: Path) -> Opened:
        """Make the partitioner, and the fingerprint of all its partitions and their ids.

        Raises:
            ConfigurationError: there is no partition, or the partitioner cannot be made.
        """
        try:
            parts = list(_partitions(self.make(request.path)))
            marks = [(user, part._fingerprint) for user, part in parts]
        except Exception as error:  # of another package; its text may quote a record
            raise ConfigurationError(
                f"data.path={request.path!r}: the partitioner could not be made "
                f"({type(error).__name__}); try it outside of userdp."
            ) from None
        if not marks:
            raise ConfigurationError(f"data.path={request.path!r}: there is no partition.")
        return Opened(cache.fingerprint(marks), lambda: _rows(parts, request))


def _partitions(partitioner: Partitioner) -> Iterator[tuple[str, Any]]:
    """Id and table of each partition: its natural id, or its number where it has none."""
    for number in range(partitioner.num_partitions):
        table = partitioner.load_partition(number)  # some know the ids from here on
        names: Mapping[int, Any] = getattr(partitioner, "partition_id_to_natural_id", {})
        yield str(names.get(number, number)), table


def _rows(parts: Sequence[tuple[str, Any]], request: SourceRequest) -> Iterator[Row]:
    from userdp.sim.data.sources import streams  # slow to import

    user = request.columns[_USER]
    wanted = {name: column for name, column in request.columns.items() if name != _USER}
    for number, (key, table) in enumerate(parts):
        for row in streams.table_rows(table, f"partition {number}", wanted):
            yield row._replace(columns={**(row.columns or {}), user: key})
