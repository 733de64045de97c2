"""Standard input, output and error, as a command needs them whatever it was started with.

A reader that goes away (``userdp run | head``), a full disk under a log, a closed descriptor, or a
terminal that cannot show a character: none of them may end a run, whose product is its folder. What
cannot be shown is left out or escaped, and the command goes on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import IO, Any

_CLOSED_READER = (errno.EPIPE, errno.ESHUTDOWN)


class Steady:
    """A text stream whose failures are kept in ``failure`` and not raised."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        """Write a text, until the stream has failed once."""
        if self.failure is None:
            try:
                self._stream.write(text)
            except OSError as error:
                self._fail(error)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the stream, unless it has failed."""
        if self.failure is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        """Keep the error, and send what is left in the buffer, and all that follows, nowhere."""
        self.failure = error
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def steady() -> Iterator[None]:
    """Open closed standard descriptors on the null device; both outputs are steady inside.

    A closed descriptor would be given to the next file that is opened, which may be the ledger:
    what a library prints would be written into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            nowhere = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115, for the process
            setattr(sys, name, nowhere)
    before = sys.stdout, sys.stderr
    for name, stream in zip(("stdout", "stderr"), before, strict=True):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, Steady(stream))
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def lost_output() -> OSError | None:
    """Why standard output is incomplete; None if it is whole, or its reader went away by itself."""
    failure: OSError | None = getattr(sys.stdout, "failure", None)
    return None if failure is None or failure.errno in _CLOSED_READER else failure
