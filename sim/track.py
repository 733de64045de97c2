"""Where a run's metrics go: a file of JSON lines always, Weights & Biases beside it, or nowhere.

Only metrics of a declared type pass (``sim.metrics``); what sees private data passes only when it
was switched on, under the prefix ``simulation_only/``.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol, cast

from sim import metrics

Values = Mapping[str, metrics.Value]
_NONE: Values = {}


class Tracker(Protocol):
    """Takes a run's metrics from ``start`` to ``close``."""

    def start(self, config: Mapping[str, Any]) -> None:
        """Open for a run with this public configuration."""
        ...

    def log(self, number: int, values: Values, simulation_only: Values = _NONE) -> None:
        """Write the metrics of round ``number``.

        Raises:
            ValueError: a key has no declared type, or is passed as what it is not.
        """
        ...

    def summary(self, values: Values, simulation_only: Values = _NONE) -> None:
        """Write the figures of the whole run; raises as ``log`` does."""
        ...

    def artifact(self, path: Path, name: str, kind: str) -> None:
        """Keep a file or folder of the run; ``kind`` says what it is, for example ``model``."""
        ...

    def close(self) -> None: ...


class NullTracker:
    """Keeps nothing."""

    def start(self, config: Mapping[str, Any]) -> None:
        pass

    def log(self, number: int, values: Values, simulation_only: Values = _NONE) -> None:
        metrics.typed(values, simulation_only, keep=False)

    def summary(self, values: Values, simulation_only: Values = _NONE) -> None:
        metrics.typed(values, simulation_only, keep=False)

    def artifact(self, path: Path, name: str, kind: str) -> None:
        pass

    def close(self) -> None:
        pass


class JsonlTracker:
    """One JSON object a line: ``{"round": 3, "epsilon": 1.2, ...}``, on disk when ``log`` returns.

    The configuration and the artifacts are files of the run folder already. ``summary`` is a line
    of the last round's number, its keys prefixed ``summary/``.
    """

    def __init__(self, path: Path, *, simulation_only: bool = False) -> None:
        self._path, self._keep = path, simulation_only
        self._file: IO[str] | None = None
        self._round = 0

    def start(self, config: Mapping[str, Any]) -> None:
        _cut_torn_line(self._path)
        self._file = self._path.open("a", buffering=1, encoding="utf-8")

    def log(self, number: int, values: Values, simulation_only: Values = _NONE) -> None:
        row = metrics.typed(values, simulation_only, keep=self._keep)
        self._round = number
        self._write({"round": number, **row})

    def summary(self, values: Values, simulation_only: Values = _NONE) -> None:
        row = metrics.typed(values, simulation_only, keep=self._keep)
        self._write({"round": self._round} | {f"summary/{key}": row[key] for key in row})

    def artifact(self, path: Path, name: str, kind: str) -> None:
        pass

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, row: Mapping[str, Any]) -> None:
        if self._file is None:
            raise ValueError(f"{self._path} is not open: start the tracker first.")
        self._file.write(json.dumps(row, allow_nan=False) + "\n")


def _cut_torn_line(path: Path) -> None:
    """Drop what a crash left of an unfinished last line, so that every line stays JSON."""
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)


class WandbTracker:
    """One Weights & Biases run, offline unless the environment's WANDB_MODE says otherwise.

    Offline it needs no account, key or network; ``wandb sync`` uploads the folder later. Nothing
    is collected but what is passed: no console, code, git, host or system statistics. Rows carry
    the time at which the run started unless ``simulation_only`` is on, since the length of a round
    depends on who took part. Online, the service still sees when a row arrives.
    """

    def __init__(
        self,
        folder: Path,
        *,
        project: str = "userdp",
        group: str | None = None,
        job_type: str | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        simulation_only: bool = False,
    ) -> None:
        self._keep = simulation_only
        self._options: dict[str, Any] = {
            **{"project": project, "group": group, "job_type": job_type, "name": name},
            **{"dir": folder, "tags": list(tags)},
        }
        self._run: Any = None
        self._clock: dict[str, float] = {}

    def start(self, config: Mapping[str, Any]) -> None:
        import wandb  # slow to import, and needed by nobody else

        self._run = wandb.init(
            **self._options,
            config=dict(config),
            mode=cast(Any, os.environ.get("WANDB_MODE") or "offline"),
            reinit="finish_previous",  # a sweep's jobs share a process, and are runs of their own
            settings=_quiet_settings(),
        )
        self._run.define_metric("*", step_metric="round")
        if not self._keep:
            self._stop_clocks()

    def log(self, number: int, values: Values, simulation_only: Values = _NONE) -> None:
        row = metrics.typed(values, simulation_only, keep=self._keep)
        self._run.log({"round": number, **_present(row), **self._clock})

    def summary(self, values: Values, simulation_only: Values = _NONE) -> None:
        row = metrics.typed(values, simulation_only, keep=self._keep)
        self._run.summary.update(_present(row))

    def artifact(self, path: Path, name: str, kind: str) -> None:
        import wandb

        artifact = wandb.Artifact(name, type=kind)
        folder, files = (path, sorted(path.rglob("*"))) if path.is_dir() else (path.parent, [path])
        for file in filter(Path.is_file, files):
            inside = file.relative_to(folder).as_posix()
            # Immutable and uncached: no copy is made outside the run folder.
            artifact.add_file(str(file), name=inside, skip_cache=True, policy="immutable")
        self._run.log_artifact(artifact)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()

    def _stop_clocks(self) -> None:
        """Give every row one time: the stamp is ours to pass, the running time is the library's.

        It has no public switch for the latter; pausing is what it does between notebook cells.
        """
        self._clock = {"_timestamp": time.time()}
        if self._run._interface is not None:  # None when WANDB_MODE=disabled
            self._run._interface.publish_pause()


def _quiet_settings() -> Any:
    import wandb

    return wandb.Settings(
        console="off",
        silent=True,
        host="",
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        save_code=False,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )


def _present(row: Values) -> dict[str, metrics.Value]:
    return {key: value for key, value in row.items() if value is not None}


class Fanout:
    """Passes everything to several trackers, in order."""

    def __init__(self, *trackers: Tracker) -> None:
        self._trackers = trackers

    def start(self, config: Mapping[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.start(config)

    def log(self, number: int, values: Values, simulation_only: Values = _NONE) -> None:
        for tracker in self._trackers:
            tracker.log(number, values, simulation_only)

    def summary(self, values: Values, simulation_only: Values = _NONE) -> None:
        for tracker in self._trackers:
            tracker.summary(values, simulation_only)

    def artifact(self, path: Path, name: str, kind: str) -> None:
        for tracker in self._trackers:
            tracker.artifact(path, name, kind)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()
