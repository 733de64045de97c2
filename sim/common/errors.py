"""Errors that end a command with a one-line message, and where an unexpected one arose."""

from __future__ import annotations

import traceback
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_OURS = [_ROOT / name for name in ("sim", "clients", "server", "analysis")]


class ConfigurationError(ValueError):
    """A configuration that cannot run; the message names the field, its value and the remedy."""


class NodeError(RuntimeError):
    """An error of a node, by its class and place alone: its text may quote a record."""


class StoppedError(RuntimeError):
    """A run that stopped before its end; the message says why, and how it can be resumed if so."""


def located(error: BaseException) -> str:
    """The class of an error and the source lines where it arose: a library's, and ours above it.

    The text of the error is left out, since it may quote a record.
    """
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if any(map(Path(frame.filename).is_relative_to, _OURS))]
    places = dict.fromkeys(map(_place, [*frames[-1:], *ours[-1:]]))  # one, where they are the same
    where = ", called at ".join(places)
    return type(error).__name__ + (f" at {where}" if where else "")


def _place(frame: traceback.FrameSummary) -> str:
    """Where a frame is: our files inside the project, others with their last folder alone."""
    path = Path(frame.filename)
    ours = any(map(path.is_relative_to, _OURS))
    shown = path.relative_to(_ROOT).as_posix() if ours else "/".join(path.parts[-2:])
    return f"{shown}:{frame.lineno} in {frame.name}"
