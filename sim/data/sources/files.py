"""Sources that are files of one format, named by a file, a folder or a glob pattern.

A new `FileSource` needs only a function that reads one file. It is for formats whose rows follow
from a file and the wanted columns alone, as in `userdp.sim.data.sources.jsonl`. A source with
options of its own (``data.options``), or one that does not read files, derives from
`userdp.sim.data.sources.base.Source` itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from userdp.sim.common import cache, file_hash
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data.sources import compression, listing
from userdp.sim.data.sources.base import Opened, Row, Source, SourceRequest
from userdp.sim.data.sources.listing import Listing

_LOG = logging.getLogger("userdp")
_SHOWN = 3  # names of files that were left out


@dataclass(frozen=True, kw_only=True)
class FileSource(Source):
    """Reads files of one format, in the order of their names.

    Args:
        suffix: of the files that are read from a folder, without the dot.
        read: (file, `SourceRequest.columns`) -> the rows of the file; without columns, with all.
        is_text: whether the files may be compressed, ``.jsonl.gz``, and are read all the same.
    """

    suffix: str
    read: Callable[[Path, Mapping[str, str]], Iterator[Row]]
    is_text: bool = False
    describes_itself: ClassVar[bool] = True

    def check(self, request: SourceRequest) -> None:
        """Refuse a path without files of this format; raises as `Source.check` does."""
        self._listing(request.path)

    def open(self, request: SourceRequest, cache_folder: Path) -> Opened:
        """Hash the files, once while they stay unchanged; raises as `Source.open` does.

        Files of a folder or pattern that are not read are told in a warning.
        """
        found = self._listing(request.path)
        for file in found.files:
            compression.readable(file)
        _tell(found, request.path, self.suffix)

        def rows() -> Iterator[Row]:
            for file in found.files:
                yield from self.read(file, request.columns)

        hashes = [file_hash.of(file, cache_folder) for file in found.files]
        return Opened(cache.fingerprint(hashes), rows)

    def _listing(self, path: str | None) -> Listing:
        if not (path or "").strip():
            raise ConfigurationError(
                "data.path is missing: give a file, a folder or a glob pattern."
            )
        endings = [f".{self.suffix}"]
        if self.is_text:
            endings += [f".{self.suffix}{ending}" for ending in compression.SUFFIXES]
        return listing.found(str(path), tuple(endings))


def _tell(found: Listing, path: str | None, suffix: str) -> None:
    if not (count := len(found.left_out)):
        return
    names = ", ".join(file.name for file in found.left_out[:_SHOWN])
    _LOG.warning(
        "data.path=%s: read %d files and left out %d, which are hidden, unfinished or not named "
        "*.%s: %s%s",
        *(path, len(found.files), count, suffix),
        *(names, ", ..." if count > _SHOWN else ""),
    )
