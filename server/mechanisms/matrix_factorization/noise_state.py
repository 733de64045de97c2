"""The noise rows of the last rounds, which later rounds are correlated with: secret until the end.

A row is ``y_t = (xi_t - sum over d >= 1 of M[t, t-d] y_{t-d}) / M[t, t]`` with ``xi_t ~ N(0, I)``
fresh from a secret stream, so that ``M y = xi``. Only b - 1 rows are kept, in memory and in a file
of their own: whoever reads it can take noise out of the releases of those rounds.

Formal guarantees:
- a row is drawn once: a number that is not above the window's is refused;
- rounds that were intended and never released get rows of the same law as if they had been;
- a file appears under its name complete, on disk, and readable by its owner alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from userdp.server.ledger.ledger import sync_folder
from userdp.server.mechanisms.matrix_factorization.factor import Factor
from userdp.sim.common import rng
from userdp.sim.common.errors import ConfigurationError

_FILE, _FORMAT = "noise", 1


class NoiseWindow:
    """The last rows of unit noise, newest first; rounds are the ledger's numbers."""

    def __init__(self) -> None:
        self.number = 0  # of the newest row; 0 before the first
        self._rows: list[np.ndarray] = []  # each (D,) float64

    def row(self, factor: Factor, stream: rng.SecretStream, number: int, size: int) -> np.ndarray:
        """(D,) the row of round ``number``, after rows for rounds that were passed over.

        Raises:
            ValueError: the window holds a row of that number or a later one.
        """
        if number <= self.number:
            raise ValueError(f"The noise of round {number} was drawn before.")
        for each in range(self.number + 1, number + 1):
            own, *before = factor.row(each)
            row = rng.standard_normal(stream, size)
            for weight, earlier in zip(before, self._rows, strict=False):
                row -= weight * earlier
            self._rows = [row / own, *self._rows][: max(1, factor.width - 1)]
            self.number = each
        return self._rows[0]

    def save(self, folder: Path, factor: Factor) -> None:
        """Store durably, replacing the file before; mode 0600."""
        folder.mkdir(parents=True, exist_ok=True)
        content = np.array(self._rows[: factor.width - 1], dtype="<f8").tobytes()
        head = {
            "format": _FORMAT,
            "number": self.number,
            "factor": factor.digest,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        temporary = folder / f"{_FILE}.tmp"
        temporary.unlink(missing_ok=True)
        place = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(place, "wb") as file:
            file.write(json.dumps(head).encode() + b"\n" + content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / _FILE)
        sync_folder(folder)

    def load(self, folder: Path, factor: Factor, *, released: int, intended: int) -> None:
        """Take up the stored rows; without a file, a run that released nothing begins anew.

        Args:
            released: number of the last round that may have been released.
            intended: number of the last round that the ledger intends.

        Raises:
            ConfigurationError: the file is missing, damaged, too old, or of another run.
        """
        path = folder / _FILE
        try:
            first, _, content = path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            if released:
                raise _refused(path, "is missing") from None
            return
        except OSError as error:
            raise _refused(path, f"cannot be read ({error.strerror})") from None
        head = _head(path, first, content)
        if head["factor"] != factor.digest or head["number"] > intended:
            raise _refused(path, "is of another run")
        if head["number"] < released:
            raise _refused(path, f"ends at round {head['number']}, before the last release")
        kept = min(head["number"], factor.width - 1)
        if kept and (not content or len(content) % (8 * kept)):
            raise _refused(path, f"does not hold {kept} rows")
        rows = np.frombuffer(content, "<f8").astype(np.float64).reshape(kept, -1 if kept else 0)
        self.number, self._rows = head["number"], list(rows)

    def check_size(self, size: int) -> None:
        """Refuse rows of another adapter than one of D = ``size``.

        Raises:
            ConfigurationError: a row has another length.
        """
        if any(len(row) != size for row in self._rows):
            raise ConfigurationError(
                f"resume: checkpoint/{_FILE} holds rows of {len(self._rows[0])} numbers for an "
                f"adapter of {size}; restore the run's own, or start a new run."
            )

    @staticmethod
    def delete(folder: Path) -> None:
        """Remove what was stored; the secrets of a run that has ended are of no more use."""
        for name in (_FILE, f"{_FILE}.tmp"):
            (folder / name).unlink(missing_ok=True)
        if folder.is_dir():
            sync_folder(folder)


def _head(path: Path, first: bytes, content: bytes) -> dict:
    try:
        head = json.loads(first)
        whole = head["sha256"] == hashlib.sha256(content).hexdigest()
        fits = head["format"] == _FORMAT and type(head["number"]) is int and head["factor"]
    except (ValueError, KeyError, TypeError):
        whole = fits = False
    if not (whole and fits):
        raise _refused(path, "is damaged")
    return head


def _refused(path: Path, what: str) -> ConfigurationError:
    return ConfigurationError(
        f"resume: {path} {what}: later noise would not fit the noise that was released; restore "
        "it, or start a new run."
    )
