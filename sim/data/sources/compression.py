"""Opens files of plain or compressed text; what compressed a file is told by its first bytes."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from userdp.sim.common.errors import ConfigurationError

SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zip")  # that may follow the name of a text file


@contextlib.contextmanager
def opened(file: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, decompressed as they are read.

    Raises:
        ConfigurationError: it is an archive of several files.
        Exception: it cannot be read, here or while it is read; of many types.
    """
    with contextlib.ExitStack() as stack:
        content = stack.enter_context(file.open("rb"))
        start = content.peek(16)[:16]
        for magic, decompress in _FORMATS.items():
            if start.startswith(magic):
                yield stack.enter_context(decompress(content))
                return
        yield content


def readable(file: Path) -> None:
    """Refuse a file that is not there or may not be read, in one line.

    Raises:
        ConfigurationError: the message names the file and the reason.
    """
    try:
        file.open("rb").close()
    except OSError as error:
        raise unreadable(file, error) from None


def unreadable(file: Path, error: BaseException, line: int | None = None) -> ConfigurationError:
    """The error that names a file, the line where reading ended, and why.

    Args:
        line: number of the line that could not be read; None: the file could not be opened.
    """
    place = f"{file}" if line is None else f"{file}, line {line}"
    if isinstance(error, OSError) and error.errno is not None:
        return ConfigurationError(
            f"data.path: {place}: cannot be read: {os.strerror(error.errno)}; check the file and "
            "its permissions."
        )
    return ConfigurationError(
        f"data.path: {place}: a damaged or unfinished compressed file; copy it again, or unpack it."
    )


def _zip(content: IO[bytes]) -> Any:
    archive = zipfile.ZipFile(content)
    members = [name for name in archive.namelist() if not name.endswith("/")]
    if len(members) != 1:
        raise ConfigurationError(
            f"data.path: {content.name}: an archive of {len(members)} files; unpack it and name "
            "its folder."
        )
    return archive.open(members[0])


def _zstandard(content: IO[bytes]) -> Any:
    import pyarrow as pa  # slow to import

    return io.BufferedReader(_Raw(pa.CompressedInputStream(content, "zstd")))


class _Raw(io.RawIOBase):
    """A stream of pyarrow as one of the standard library."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        """Whether it can be read: always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with the next bytes; returns their number, 0 at the end."""
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


_FORMATS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda content: gzip.GzipFile(fileobj=content),
    **{b"BZh%d1AY&SY" % level: lambda content: bz2.BZ2File(content) for level in range(1, 10)},
    b"\xfd7zXZ\x00": lambda content: lzma.LZMAFile(content),  # noqa: SIM115 - closed by `opened`
    b"\x28\xb5\x2f\xfd": _zstandard,
    b"PK\x03\x04": _zip,
}
