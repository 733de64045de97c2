"""Builds the trackers of a run: ``metrics.jsonl``, and the sink that ``track.sink`` names."""

from __future__ import annotations

from userdp.sim.config.settings import Settings
from userdp.sim.run.health import failed_units
from userdp.sim.run_folder.layout import RunFolder
from userdp.sim.tracking import tensorboard_tracker, tracker, wandb_tracker
from userdp.sim.tracking.tracker import Tracker


def check(settings: Settings) -> None:
    """Check that the sink is installed and can start, as far as it is known without a folder.

    Raises:
        ConfigurationError: it is not or cannot; names what to change.
    """
    if settings.track.sink == "tensorboard":
        tensorboard_tracker.check()
    if settings.track.sink == "wandb":
        group = settings.track.group or settings.sweep
        wandb_tracker.check(project=settings.track.project, group=group, tags=_tags(settings))


def of(settings: Settings) -> Tracker:
    """The trackers of a run, not started yet."""
    keep, folder = settings.track.simulation_only, RunFolder(settings.folder)
    failed = failed_units.FailedUnits(simulation_only=keep)
    lines = tracker.Fanout(failed, tracker.JsonlTracker(folder.metrics, simulation_only=keep))
    if settings.track.sink == "jsonl":
        return lines
    if settings.track.sink == "tensorboard":
        board = tensorboard_tracker.TensorBoardTracker(folder.tensorboard, simulation_only=keep)
        return tracker.Fanout(lines, board)
    wandb = wandb_tracker.WandbTracker(
        folder.path,
        run_id=folder.wandb_id,
        project=settings.track.project,
        group=settings.track.group or settings.sweep,
        job_type=settings.strategy.name,
        name=folder.path.name,
        tags=_tags(settings),
        simulation_only=keep,
    )
    return tracker.Fanout(lines, wandb)


def _tags(settings: Settings) -> list[str]:
    """Tags by which a list of runs can be filtered."""
    not_private = not settings.strategy.mechanism.private or settings.privacy.reproducible
    flags = {"NOT PRIVATE": not_private, "simulation_only": settings.track.simulation_only}
    kinds = [settings.strategy.name, settings.selection.rule]
    return [*kinds, *(name for name, raised in flags.items() if raised)]
