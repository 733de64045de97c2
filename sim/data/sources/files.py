"""Sources that are files of one format, named by a file, a folder or a glob pattern.

A new `FileSource` needs only a function that reads one file. It is for formats whose rows follow
from a file and the wanted columns alone, as in `userdp.sim.data.sources.jsonl`. A source with
options of its own (``data.options``), or one that does not read files, derives from
`userdp.sim.data.sources.base.Source` itself.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from userdp.sim.common import cache, file_hash
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data.sources.base import Opened, Row, Source, SourceRequest


@dataclass(frozen=True, kw_only=True)
class FileSource(Source):
    """Reads files of one format, in the order of their names.

    Args:
        suffix: of the files that are read from a folder, without the dot.
        read: (file, `SourceRequest.columns`) -> the rows of the file.
    """

    suffix: str
    read: Callable[[Path, Mapping[str, str]], Iterator[Row]]

    def check(self, request: SourceRequest) -> None:
        """Refuse a path without files of this format; raises as `Source.check` does."""
        _files(request.path, self.suffix)

    def open(self, request: SourceRequest, cache_folder: Path) -> Opened:
        """Hash the files, once while they stay unchanged; raises as `Source.open` does."""
        files = _files(request.path, self.suffix)

        def rows() -> Iterator[Row]:
            for file in files:
                yield from self.read(file, request.columns)

        return Opened(cache.fingerprint([file_hash.of(file, cache_folder) for file in files]), rows)


def _files(path: str | None, suffix: str) -> list[Path]:
    if path is None:
        raise ConfigurationError("data.path is missing: give a file, a folder or a glob pattern.")
    location = Path(path)
    if location.is_dir():
        files = sorted(location.rglob(f"*.{suffix}"))
        mend = f"a folder needs files named *.{suffix}"
    else:
        files = (
            [location] if location.is_file() else sorted(map(Path, glob.glob(path, recursive=True)))
        )
        mend = "give a file, a folder or a glob pattern"
    files = [file for file in files if file.is_file()]
    if not files:
        raise ConfigurationError(f"data.path={path}: no such file; {mend}.")
    return files
