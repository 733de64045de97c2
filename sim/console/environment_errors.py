"""One line about an error of the environment: a full disk, a missing permission, too many files.

The line names what failed, where, and the setting to change. Errors of this kind reach us under
many classes, since libraries in other languages pass on the system's text alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from userdp.sim.common import cache
from userdp.sim.common.errors import ConfigurationError

_FREE = "free some space there"
_MENDS = {
    errno.ENOSPC: _FREE,
    errno.EDQUOT: _FREE,
    errno.EFBIG: "raise the limit (ulimit -f)",
    errno.EMFILE: "raise the limit (ulimit -n)",
    errno.ENFILE: "close other programs",
    errno.EACCES: "give this user the permission",
    errno.EPERM: "give this user the permission",
    errno.EROFS: "make it writable",
    errno.ENOTDIR: "a folder is needed there",
    errno.EIO: "check the disk",
}
_NO_TEMPORARY = "No usable temporary directory found"


def told(error: BaseException, **places: Path) -> str | None:
    """One line about an error that the environment has caused; None if it has another cause.

    Args:
        error: as it was caught; what it was raised from is looked at too.
        places: folders by the name of the setting that chooses them.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if (line := _of_one(current, places)) is not None:
            return line
        current = current.__cause__ or current.__context__
    return None


def _of_one(error: BaseException, places: dict[str, Path]) -> str | None:
    if _NO_TEMPORARY in str(error):
        return "TMPDIR: no folder for temporary files can be written; set TMPDIR to one that can."
    number, place = _number(error), getattr(error, "filename", None)
    if number is None and not isinstance(error, OSError):
        return None
    what = os.strerror(number) if number else " ".join(str(error).split())
    if number in (errno.EMFILE, errno.ENFILE):  # whichever file it was
        return f"{what}: {_MENDS[number]}."
    everywhere = {**places, **_usual_places()}
    if place is None or isinstance(place, int):
        chosen = {k: v for k, v in everywhere.items() if not k.endswith(".path")}  # are read only
        names = ", ".join(f"{name}={folder}" for name, folder in chosen.items())
        return f"{what}: {_mend(number)}, or choose other folders: {names}."
    setting = _setting(Path(os.fsdecode(place)), everywhere)
    other = f", or set {setting} to another place" if setting else ""
    return f"{setting or 'file'}: {os.fsdecode(place)}: {what}; {_mend(number)}{other}."


def _mend(number: int | None) -> str:
    return _MENDS.get(number or 0, "mend this")


def _number(error: BaseException) -> int | None:
    """The system's number of an error, also where a library passes on its text alone."""
    if isinstance(error, OSError):
        return error.errno
    text = str(error)
    return next((number for number in _MENDS if os.strerror(number) in text), None)


def _usual_places() -> dict[str, Path]:
    """Folders of ours and of libraries, by the variable that chooses them."""
    found: dict[str, Path] = {}
    with contextlib.suppress(ConfigurationError):
        found[cache.VARIABLE] = cache.cache_root()
    with contextlib.suppress(RuntimeError):
        found["HF_HOME"] = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return found


def _setting(path: Path, places: dict[str, Path]) -> str | None:
    """The setting whose folder holds the path, or would be made inside it; the innermost's."""
    path, temporary = path.absolute(), Path(tempfile.gettempdir()).absolute()
    folders = {name: folder.absolute() for name, folder in places.items()}
    holding = [name for name, folder in folders.items() if path.is_relative_to(folder)]
    if holding:
        return max(holding, key=lambda name: len(folders[name].parts))
    parts = [name for name, folder in folders.items() if folder.is_relative_to(path)]
    made = str(path).startswith(str(temporary / tempfile.gettempprefix()))  # by `tempfile`
    return parts[0] if parts else "TMPDIR" if made else None


@contextlib.contextmanager
def raised_as(
    kind: type[Exception], places: Mapping[str, Path], ending: Callable[[], str] = str
) -> Iterator[None]:
    """Raise an error of the environment as ``kind``, in one line with ``ending`` behind it.

    Args:
        kind: `ConfigurationError` before a round is spent, `StoppedError` after.
        places: folders by the name of the setting that chooses them.
        ending: makes the end of the line, for example how to resume.

    Raises:
        Exception: of class ``kind``; what the environment has not caused passes through.
    """
    try:
        yield
    except (ConfigurationError, KeyboardInterrupt, kind):
        raise
    except Exception as error:
        line = told(error, **places)
        if line is None:
            raise
        raise kind(f"{line} {ending()}".strip()) from error
