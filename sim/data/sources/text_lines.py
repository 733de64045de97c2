"""Streams the lines of a text file: strict UTF-8, plain or compressed, a line in memory at a time.

Bytes that are not UTF-8 are refused and never replaced: a replacement character in the place of
each of several letters would make one user of several.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data.sources import compression

LONGEST = 1 << 28  # characters of a line; a longer one is no record of text


def lines(file: Path) -> Iterator[str]:
    """The lines with their breaks, which are LF, CR LF or CR; a byte order mark is left out.

    Raises:
        ConfigurationError: the file cannot be read, is damaged, or has a line that is not UTF-8 or
            is too long; the message names file and line, and quotes nothing.
    """
    number = None
    try:
        with compression.opened(file) as content:
            # A byte that is not UTF-8 becomes half a surrogate pair, which no valid byte does.
            text = io.TextIOWrapper(content, "utf-8-sig", errors="surrogateescape", newline="")
            number = 1
            while line := text.readline(LONGEST):
                _check(line, file, number)
                yield line
                number += 1
    except ConfigurationError:
        raise
    except Exception as error:  # damaged compression raises many types
        raise compression.unreadable(file, error, number) from None


def _check(line: str, file: Path, number: int) -> None:
    if len(line) == LONGEST and line[-1] not in "\r\n":
        raise ConfigurationError(
            f"data.path: {file}, line {number}: more than {LONGEST:,} characters; is data.format "
            "right, and is every record a line?"
        )
    if line.isascii():
        return
    try:
        line.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"data.path: {file}, line {number}: not UTF-8; store the file in UTF-8, for example "
            "by iconv, or is data.format right?"
        ) from None
