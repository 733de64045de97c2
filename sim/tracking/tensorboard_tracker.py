"""Writes a run for TensorBoard: scalars by round, and the configuration as hyperparameters.

As every tracker, it writes only metrics of the table (``userdp.sim.tracking.metric_kinds``).
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.common.flatten import flatten
from userdp.sim.tracking import metric_kinds, tracker


def check() -> None:
    """Check that TensorBoard is installed.

    Raises:
        ConfigurationError: it is not; names the extra that installs it.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigurationError(
            "track.sink=tensorboard: tensorboard is not installed; pip install "
            "'userdp[tensorboard]', or choose track=jsonl."
        )


class TensorBoardTracker:
    """Writes event files to ``folder``; ``tensorboard --logdir`` compares many such folders.

    Unless ``simulation_only`` is on, every event has the time at which the run started, since the
    duration of a round depends on who took part. Text and artifacts are not written. TensorBoard
    puts the name of the host into the name of an event file.
    """

    def __init__(self, folder: Path, *, simulation_only: bool = False) -> None:
        self._folder, self._keep = folder, simulation_only
        self._writer: Any = None
        self._config: dict[str, str | float | bool] = {}
        self._started = 0.0
        self._round = 0

    def start(self, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self._writer, self._started = SummaryWriter(str(self._folder)), time.time()
        # TensorBoard takes numbers, text and truth values; other values are written as text.
        self._config = {
            name: value if isinstance(value, str | bool | int | float) else str(value)
            for name, value in flatten(config).items()
        }

    def log(
        self, number: int, values: tracker.Values, simulation_only: tracker.Values = tracker.NONE
    ) -> None:
        self._round = number
        self._write(metric_kinds.typed(values, simulation_only, keep=self._keep))

    def summary(
        self, values: tracker.Values, simulation_only: tracker.Values = tracker.NONE
    ) -> None:
        """Write the figures at the last round, under ``summary/``: columns of the HPARAMS tab."""
        row = metric_kinds.typed(values, simulation_only, keep=self._keep)
        named = {f"summary/{key}": value for key, value in row.items()}
        self._write(named)
        from torch.utils.tensorboard.summary import hparams

        numbers = _numbers(named)
        for part in hparams(self._config, numbers):  # type: ignore[no-untyped-call]
            self._writer.file_writer.add_summary(part, walltime=self._time())
        self._writer.flush()

    def texts(self, key: str, columns: Sequence[str], rows: tracker.Rows) -> None:
        metric_kinds.check_texts(key)

    def artifact(self, path: Path, name: str, kind: str) -> None:
        pass

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _write(self, row: tracker.Values) -> None:
        for key, number in _numbers(row).items():
            self._writer.add_scalar(key, number, self._round, walltime=self._time())
        self._writer.flush()

    def _time(self) -> float:
        return time.time() if self._keep else self._started


def _numbers(row: tracker.Values) -> dict[str, float]:
    """The values that are numbers or truth values, as numbers."""
    return {
        key: float(value) for key, value in row.items() if isinstance(value, bool | int | float)
    }
