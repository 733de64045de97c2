"""Noise rows of the last rounds, which the noise of later rounds depends on; secret during the run.

A row is ``y_t = (xi_t - sum over d >= 1 of M[t, t-d] y_{t-d}) / M[t, t]`` with ``xi_t ~ N(0, I)``
fresh from a secret stream, so that ``M y = xi``. Only b - 1 rows are kept, in memory and in a file
of their own: whoever reads that file can subtract noise from the releases of those rounds.

Formal guarantees:
- a row is drawn once: a round that is not after the newest row's is refused;
- rounds that were intended and never released get rows of the same law as if they had been
  released;
- the file appears under its name only when it is complete and on disk, and its owner alone can
  read it;
- a run goes on with the rows whose digest its checkpoint holds, which the ledger's digest of the
  checkpoint binds in turn. A kill between the two files leaves the rows of a round that was not
  stored: the file before it is kept for that, and the round's row is drawn anew.

The digest is public, so the file begins with a random salt. Without it a digest would betray noise:
whoever knows all users but one can compute the noise from a release, once for each neighbour, and
compare its digest.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from userdp.server.mechanisms.matrix_factorization.factor import Factor
from userdp.sim.common import durable_file, rng
from userdp.sim.common.errors import ConfigurationError

_FILE, _BEFORE, _FORMAT = "noise", "noise.before", 1
_SALT_BYTES = 32


class NoiseWindow:
    """The last noise rows at scale 1, newest first; rounds have the ledger's numbers."""

    def __init__(self) -> None:
        self.number = 0  # of the newest row; 0 before the first
        self._rows: list[np.ndarray] = []  # each (D,) float64
        self._file = ""  # name of the file that holds the rows of the last stored release

    def row(self, factor: Factor, stream: rng.SecretStream, number: int, size: int) -> np.ndarray:
        """(D,) float64 row of round ``number``; first draws rows for rounds that were left out.

        Args:
            factor: M.
            stream: secret; D normals are drawn for each new row.
            number: of the round, from 1.
            size: D.

        Raises:
            ValueError: the window holds a row of that round or a later one.
        """
        if number <= self.number:
            raise ValueError(f"The noise of round {number} was drawn before.")
        for current in range(self.number + 1, number + 1):
            diagonal, *coefficients = factor.row(current)
            row = rng.standard_normal(stream, size)
            for coefficient, earlier in zip(coefficients, self._rows, strict=False):
                row -= coefficient * earlier
            self._rows = [row / diagonal, *self._rows][: max(1, factor.width - 1)]
            self.number = current
        return self._rows[0]

    def save(self, folder: Path, factor: Factor) -> str:
        """Write the rows that later rounds need, durably and with mode 0600.

        The file of the release before stays under another name, until the next one is written.

        Returns:
            The SHA-256 of the new file, in hexadecimal digits: public, since the file is salted.
        """
        rows = np.array(self._rows[: factor.width - 1], dtype="<f8").tobytes()
        header = {
            "format": _FORMAT,
            "salt": os.urandom(_SALT_BYTES).hex(),
            "number": self.number,
            "factor": factor.digest,
            "sha256": hashlib.sha256(rows).hexdigest(),
        }
        content = json.dumps(header).encode() + b"\n" + rows
        if self._file == _FILE:
            (folder / _FILE).replace(folder / _BEFORE)
        durable_file.replace(folder / _FILE, content, mode=0o600)
        self._file = _FILE
        return hashlib.sha256(content).hexdigest()

    def load(
        self, folder: Path, factor: Factor, *, released: int, intended: int, digest: str | None = ""
    ) -> None:
        """Read the stored rows; a run that stored no release starts without rows.

        Args:
            folder: of the checkpoint.
            factor: M, of the resumed run.
            released: number of the last round that may have been released.
            intended: number of the last round with an intent in the ledger.
            digest: of the file, as the checkpoint has it; empty where an older version made the
                checkpoint, None where there is none.

        Raises:
            ConfigurationError: the file is missing, unreadable, damaged, too old, of another run or
                not the one of this digest.
        """
        path = folder / _FILE
        if digest is None and not released:
            return
        stored = _read(path) if not digest else _of_digest(folder, digest)
        if stored is None:
            if released:
                raise _refused(path, "is missing")
            return
        self._file, line, content = stored
        header = _header(path, line, content)
        number = header["number"]
        if header["factor"] != factor.digest or number > intended:
            raise _refused(path, "is of another run")
        if number < released:
            raise _refused(path, f"ends at round {number}, before the last release")
        count = min(number, factor.width - 1)
        if count and (not content or len(content) % (8 * count)):
            raise _refused(path, f"does not hold {count} rows")
        rows = np.frombuffer(content, "<f8").astype(np.float64).reshape(count, -1 if count else 0)
        self.number, self._rows = number, list(rows)

    def check_size(self, size: int) -> None:
        """Check that every row has D = ``size`` numbers.

        Raises:
            ConfigurationError: one has another length, so it belongs to another adapter.
        """
        if any(len(row) != size for row in self._rows):
            raise ConfigurationError(
                f"resume: checkpoint/{_FILE} holds rows of {len(self._rows[0])} numbers for an "
                f"adapter of {size}; restore the run's own, or start a new run."
            )

    @staticmethod
    def delete(folder: Path) -> None:
        """Delete the files in ``folder``, if there are any: a run that has ended needs no rows."""
        for name in (_FILE, _BEFORE):
            durable_file.remove(folder / name)


def _read(path: Path) -> tuple[str, bytes, bytes] | None:
    """Name, first line and rows of a file; None where there is none."""
    try:
        line, _, content = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refused(path, f"cannot be read ({error.strerror})") from None
    return path.name, line, content


def _of_digest(folder: Path, digest: str) -> tuple[str, bytes, bytes] | None:
    """As `_read`, of the file that has this digest; None where there is none of the usual name."""
    files = [stored for name in (_FILE, _BEFORE) if (stored := _read(folder / name))]
    for stored in files:
        _, line, content = stored
        if hashlib.sha256(line + b"\n" + content).hexdigest() == digest:
            return stored
    if not any(name == _FILE for name, _, _ in files):
        return None
    raise _refused(
        folder / _FILE, "is not the one that the checkpoint names (changed, or of another time)"
    )


def _header(path: Path, line: bytes, content: bytes) -> dict[str, Any]:
    """The file's first line, checked against the rows that follow it."""
    header: dict[str, Any] = {}
    try:
        header = json.loads(line)
        intact = header["sha256"] == hashlib.sha256(content).hexdigest()
        fits = header["format"] == _FORMAT and type(header["number"]) is int and header["factor"]
    except (ValueError, KeyError, TypeError):
        intact = fits = False
    if not (intact and fits):
        raise _refused(path, "is damaged")
    return header


def _refused(path: Path, problem: str) -> ConfigurationError:
    return ConfigurationError(
        f"resume: {path} {problem}: later noise would not fit the noise that was released; restore "
        "it, or start a new run."
    )
