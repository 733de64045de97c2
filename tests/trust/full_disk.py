"""A run on a disk of too few kilobytes: it ends in one line, and goes on once there is space.

The disk is a file system in memory of a given size, which only an administrator can mount. Where
there is no such right, nothing can be tried here; `tests/sim/run/test_interrupted.py` raises the
system's error at chosen writes instead.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trust import every_kill, kills

from helpers import small_world

PAGE = 4  # kilobytes; the file system counts in these
AMPLE = 64 * 1024


@dataclass(frozen=True)
class Outcome:
    """What came of a run on a disk of one size."""

    kilobytes: int
    codes: tuple[int, ...]  # of the run, and of the commands after there was space
    told: str  # the last line of the first command
    faults: tuple[str, ...]


def can_mount() -> bool:
    """Whether this process may mount a file system."""
    probe = Path(os.environ.get("TMPDIR", "/tmp")) / f"userdp-disk-{os.getpid()}"
    probe.mkdir()
    try:
        with disk(probe, PAGE):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False
    finally:
        probe.rmdir()


@contextlib.contextmanager
def disk(place: Path, kilobytes: int) -> Iterator[None]:
    """Mount a file system of this size on a folder."""
    options = ["-t", "tmpfs", "-o", f"size={kilobytes}k"]
    subprocess.run(["mount", *options, "tmpfs", place], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True, capture_output=True)


def grow(place: Path, kilobytes: int = AMPLE) -> None:
    """Give a mounted file system another size."""
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", place], check=True)


def needed(folder: Path) -> int:
    """Kilobytes that the files of a whole run need."""
    with disk(folder, AMPLE):
        code = kills.forked(_command(folder), folder / "run", folder / "../needed-diary", None)[0]
        if code:
            raise RuntimeError((folder / "../needed-diary.output").read_text()[-2000:])
        free = os.statvfs(folder)
        return (free.f_blocks - free.f_bfree) * free.f_frsize // 1024


def ran(kilobytes: int, folder: Path, diary: Path) -> Outcome:
    """Run on a disk of this size, give it space, and end the run as a user would.

    Args:
        kilobytes: of the disk.
        folder: on which the disk is mounted.
        diary: outside of it; made anew.
    """
    run, output = folder / "run", diary.with_suffix(".output")
    for path in (diary, output):
        path.unlink(missing_ok=True)
    with disk(folder, kilobytes):
        codes = [kills.forked(_command(folder), run, diary, None)[0]]
        text = output.read_text()
        told = text.strip().splitlines()[-1]
        grow(folder)
        if codes[0]:
            codes.append(kills.forked(["run", f"resume={run}"], run, diary, None)[0])
        if codes[-1] == 2 and not kills.drawn(diary):
            codes.append(kills.forked(_command(folder), run, diary, None)[0])
        faults = list(kills.faults(run, diary, codes[-1], every_kill.ROUNDS))
    if "Traceback" in text or (codes[0] and not told.startswith("userdp: ")):
        faults.append(f"not one line: {text[-400:]}")
    if codes[0] not in (0, 1, 2):
        faults.append(f"exit code {codes[0]}")
    return Outcome(kilobytes, tuple(codes), told, tuple(faults))


def _command(folder: Path) -> list[str]:
    return [*every_kill.command("user_wise", folder / "run"), "model.lora.r=16"]


def warmed(folder: Path) -> None:
    """Fill the cache by a run elsewhere, so that only the run's own files need the disk."""
    small_world.model()
    command = [*_command(folder), f"output={folder / 'warm'}"]
    kills.forked(command, folder / "warm", folder / "warmed", None)
