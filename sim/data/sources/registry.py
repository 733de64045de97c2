"""The table of data sources: names that ``data.format`` may have, and the object behind each.

A new source of userdp needs a line here. One of another package needs none: ``data.format`` also
accepts the dotted name of an object, for example ``my_package.sqlite.SOURCE``.
"""

from __future__ import annotations

from userdp.sim.common.table import Table
from userdp.sim.data.sources.base import GeneratedPopulation, Source

SOURCES: Table[Source | GeneratedPopulation] = Table(
    "data.format",
    {
        "synthetic": "userdp.sim.data.synthetic.users.POPULATION",
        "form_letters": "userdp.sim.data.synthetic.form_letters.POPULATION",
        "jsonl": "userdp.sim.data.sources.jsonl.SOURCE",
        "csv": "userdp.sim.data.sources.csv_files.SOURCE",
        "parquet": "userdp.sim.data.sources.parquet.SOURCE",
        "hub": "userdp.sim.data.sources.hub.SOURCE",
        "shard": "userdp.sim.data.sources.shard.SOURCE",
    },
    kinds=[Source, GeneratedPopulation],
)


def public_prompts(name: str) -> tuple[str, ...]:
    """Public beginnings of texts, where the source of this name generates its users; else none."""
    source = SOURCES.find(name)
    return source.prompts if isinstance(source, GeneratedPopulation) else ()
