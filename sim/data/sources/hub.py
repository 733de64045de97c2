"""Rows of a data set of the Hugging Face hub, downloaded to the cache of the `datasets` library.

A local folder of such a data set is read too: of files, or as ``save_to_disk`` wrote it.
"""

from __future__ import annotations

from pathlib import Path

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data.sources import saved_tables
from userdp.sim.data.sources.base import Opened, Source, SourceRequest


class HubSource(Source):
    """Reads one split of a data set; ``data.path`` is its name, or a local folder of one."""

    describes_itself = True
    on_hub = True

    def check(self, request: SourceRequest) -> None:
        """Refuse a request without a name; raises as `Source.check` does."""
        _path(request)

    def open(self, request: SourceRequest, cache_folder: Path) -> Opened:
        """Download the data set; raises as `Source.open` does."""
        from userdp.sim.data.sources import streams  # slow to import

        path = _path(request)
        table = streams.hub_table(path, request.name, request.hub_split)
        saved = saved_tables.place(path, request.hub_split)
        contents = table._fingerprint
        if saved is not None:
            contents = saved_tables.fingerprint(saved, cache_folder)
        return Opened(contents, lambda: streams.table_rows(table, path, request.columns))


def _path(request: SourceRequest) -> str:
    if not (request.path or "").strip():
        raise ConfigurationError("data.path is missing: name a data set of the hub.")
    return str(request.path)


SOURCE = HubSource()
