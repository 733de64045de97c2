"""Writes a run to Weights & Biases: metrics by round, scores by epsilon, summary, artifacts.

As every tracker, it writes only metrics of the table (``userdp.sim.tracking.metric_kinds``).
"""

from __future__ import annotations

import base64
import html
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from userdp.sim.common import durable_file
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.common.plain_text import printable, shown
from userdp.sim.tracking import metric_kinds, tracker

_NO_KEY = (
    "WANDB_MODE={}: wandb has no key for {}; set WANDB_API_KEY or run wandb login, or "
    "leave WANDB_MODE out and upload the run later."
)
_LONGEST_GROUP = 128  # characters that the service takes
BY_EPSILON = "by_epsilon/"  # prefix of the held-out scores with epsilon as their axis


class WandbTracker:
    """One Weights & Biases run, offline unless the environment's WANDB_MODE says otherwise.

    Offline it needs no account, key or network; ``wandb sync`` uploads the folder later. The
    library's own collection is switched off: no console, code, git, host or system statistics.
    Unless ``simulation_only`` is on, every row has the time at which the run started, since the
    duration of a round depends on who took part. Online, the service still sees when a row arrives.

    Charts have the round as their axis. Held-out scores are logged a second time under
    ``by_epsilon/``, with the epsilon spent so far as the axis: the utility curve. Summaries are of
    the last round, which is what is released, and never of the best one.

    The library's own debug logs, which time every step of the run, are deleted from the folder as
    soon as the library has opened them. Its service keeps one more of the kind outside the run
    folder, in ``WANDB_CACHE_DIR``, with the times at which it started and ended.

    Args:
        folder: where the library writes its files.
        run_id: file that holds the library's id of the run, written at its start: a run that is
            resumed goes on under it, and is one run in the service too. None: a new id.
        project, group, job_type, name, tags: as `wandb.init` takes them.
        simulation_only: whether metrics of that kind are written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        run_id: Path | None = None,
        project: str = "userdp",
        group: str | None = None,
        job_type: str | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        simulation_only: bool = False,
    ) -> None:
        self._keep, self._run_id = simulation_only, run_id
        self._options: dict[str, Any] = {
            **{"project": project, "group": group, "job_type": job_type, "name": name},
            **{"dir": folder, "tags": list(tags)},
        }
        self._run: Any = None
        self._clock: dict[str, float] = {}
        # After the last logged round; held-out scores are logged in separate rows, without it.
        self._epsilon: metric_kinds.Value = None

    def start(self, config: Mapping[str, Any]) -> None:
        again = {} if self._run_id is None else {"id": _id(self._run_id), "resume": "allow"}
        self._run = opened(config, **self._options, **again)
        self._delete_logs()
        self._run.define_metric("round", hidden=True)
        self._run.define_metric("*", step_metric="round")
        for key in filter(_is_score, metric_kinds.METRICS):
            self._run.define_metric(BY_EPSILON + key, step_metric="epsilon", summary="none")
        if not self._keep:
            self._stop_clocks()

    def log(
        self, number: int, values: tracker.Values, simulation_only: tracker.Values = tracker.NONE
    ) -> None:
        row = _present(metric_kinds.typed(values, simulation_only, keep=self._keep))
        self._epsilon = row.get("epsilon", self._epsilon)
        scores = {BY_EPSILON + key: row[key] for key in filter(_is_score, row)}
        if scores and self._epsilon is not None:
            row |= {**scores, "epsilon": self._epsilon}
        self._run.log({"round": number, **row, **self._clock})

    def summary(
        self, values: tracker.Values, simulation_only: tracker.Values = tracker.NONE
    ) -> None:
        row = metric_kinds.typed(values, simulation_only, keep=self._keep)
        self._run.summary.update(_present(row))

    def texts(self, key: str, columns: Sequence[str], rows: tracker.Rows) -> None:
        """Log the table as a page: the library copies its own tables out of the run folder."""
        metric_kinds.check_texts(key)
        if rows:
            import wandb

            self._run.log({key: wandb.Html(_page([columns, *rows]), inject=False), **self._clock})

    def artifact(self, path: Path, name: str, kind: str) -> None:
        import wandb

        artifact = wandb.Artifact(name, type=kind)
        folder, files = (path, sorted(path.rglob("*"))) if path.is_dir() else (path.parent, [path])
        for file in filter(Path.is_file, files):
            inside = file.relative_to(folder).as_posix()
            # With these two options the library makes no copy outside the run folder.
            artifact.add_file(str(file), name=inside, skip_cache=True, policy="immutable")
        self._run.log_artifact(artifact)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._delete_logs()  # where an open file could not be deleted

    def _delete_logs(self) -> None:
        """Delete the library's debug logs; there is no option that leaves them out."""
        shutil.rmtree(self._run.settings.log_dir, ignore_errors=True)

    def _stop_clocks(self) -> None:
        """Give all rows the same time stamp, and stop the library's clock of the running time.

        There is no public option for the latter; the library pauses in this way between the cells
        of a notebook.
        """
        self._clock = {"_timestamp": time.time()}
        if self._run._interface is not None:  # None when WANDB_MODE=disabled
            self._run._interface.publish_pause()


def check(*, project: str, group: str | None, tags: Sequence[str] = ()) -> None:
    """Check what can be known of a run's start before there is a folder; nothing is sent.

    Args:
        project, group, tags: as `wandb.init` takes them.

    Raises:
        ConfigurationError: the library refuses the project or what the environment's WANDB_...
            variables say, or it shall be online and has no key.
    """
    _refused_as_setting("track.project", project, {"project": project})
    if group is not None and len(group) > _LONGEST_GROUP:
        raise ConfigurationError(
            f"track.group={shown(group)}: has more than {_LONGEST_GROUP} characters; shorten it."
        )
    _refused_as_setting("WANDB_MODE", _mode(), {"mode": _mode()})
    for tag in tags:
        _refused_as_setting("strategy.name", tag, {"run_tags": [tag]})
    settings = _quiet_settings()
    try:
        settings.update_from_env_vars(dict(os.environ))
    except Exception as error:  # of the library's own kinds, one for each variable
        raise ConfigurationError(f"WANDB_...: the environment's: {_reason(error)}.") from None
    if _mode() not in _WITHOUT_SERVICE:
        _check_key(str(settings.base_url))


_WITHOUT_SERVICE = ("offline", "disabled", "dryrun")


def _mode() -> str:
    return os.environ.get("WANDB_MODE") or "offline"


def _refused_as_setting(name: str, value: str, settings: Mapping[str, Any]) -> None:
    import wandb

    try:
        wandb.Settings(**settings)
    except Exception as error:  # UsageError, or one of pydantic
        raise ConfigurationError(f"{name}={shown(value)}: wandb says: {_reason(error)}.") from None


def _check_key(host: str) -> None:
    from wandb.sdk.lib import wbauth  # the library has no public question that does not prompt

    try:
        key = wbauth.authenticate_session(
            host=host, source="userdp", prompt=False, update_session=False
        )
    except Exception as error:  # a key that is no key, a file that cannot be read
        raise ConfigurationError(f"WANDB_API_KEY: wandb says: {_reason(error)}.") from None
    if key is None:
        raise ConfigurationError(_NO_KEY.format(_mode(), host))


def _reason(error: BaseException) -> str:
    """The line of an error that says what is wrong: not the one that counts pydantic's errors."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = lines[-1 if len(lines) < 3 else 2] if lines else type(error).__name__
    return printable(re.sub(r" \[type=.*|^Value error, ", "", told)).rstrip(".")


def opened(config: Mapping[str, Any], **options: Any) -> Any:
    """A new run of the library, with its own collection switched off.

    Args:
        config: nested plain values.
        options: as `wandb.init` takes them.

    Raises:
        ConfigurationError: the library or its service refuses the run, or does not answer.
    """
    import wandb  # slow to import, and not needed for other sinks

    try:
        return wandb.init(
            **options,
            config=dict(config),
            mode=cast(Any, _mode()),
            reinit="finish_previous",  # jobs of a sweep share a process, and each is a run
            settings=_quiet_settings(),
        )
    except Exception as error:  # of the library or the network
        raise ConfigurationError(
            f"track.sink=wandb, WANDB_MODE={_mode()}: did not start: {_reason(error)}; "
            "leave WANDB_MODE out and upload the run later, or choose another track.sink."
        ) from None


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
        symlink=False,  # to the debug logs, which are deleted
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )


def _id(path: Path) -> str:
    """The id in the file, which is made where there is none: 8 random letters and digits."""
    if not path.is_file():
        durable_file.replace(path, base64.b32encode(os.urandom(5)).lower())
    return path.read_text(encoding="utf-8").strip()


def _is_score(key: str) -> bool:
    return key.startswith("heldout_") and not key.endswith("_before")


def _page(rows: Sequence[Sequence[str]]) -> str:
    """An HTML table in which no text is markup."""
    cells = ["".join(f"<td>{html.escape(printable(text))}</td>" for text in row) for row in rows]
    style = "td{vertical-align:top;white-space:pre-wrap;padding:.4em}"
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f'<meta charset="utf-8"><style>{style}</style><table>{body}</table>'


def _present(row: tracker.Values) -> dict[str, metric_kinds.Value]:
    return {key: value for key, value in row.items() if value is not None}
