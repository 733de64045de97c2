"""Which trackers a run has: ``metrics.jsonl`` always, and beside it what ``track`` names."""

from __future__ import annotations

from userdp.sim.config.settings import Settings
from userdp.sim.tracking import tensorboard_tracker, tracker, wandb_tracker


def check(settings: Settings) -> None:
    """Refuse a sink that is not installed, before a round is spent.

    Raises:
        ConfigurationError: names what to install.
    """
    if settings.track.sink == "tensorboard":
        tensorboard_tracker.check()


def of(settings: Settings) -> tracker.Tracker:
    """The trackers of a run, not started yet."""
    keep, folder = settings.track.simulation_only, settings.folder
    lines = tracker.JsonlTracker(folder / "metrics.jsonl", simulation_only=keep)
    if settings.track.sink == "jsonl":
        return lines
    if settings.track.sink == "tensorboard":
        board = tensorboard_tracker.TensorBoardTracker(folder / "tensorboard", simulation_only=keep)
        return tracker.Fanout(lines, board)
    wandb = wandb_tracker.WandbTracker(
        folder,
        project=settings.track.project,
        group=settings.track.group or settings.sweep,
        job_type=settings.strategy.name,
        name=folder.name,
        tags=_tags(settings),
        simulation_only=keep,
    )
    return tracker.Fanout(lines, wandb)


def _tags(settings: Settings) -> list[str]:
    """What a list of runs is filtered by."""
    public = settings.strategy.name == "non_private" or settings.privacy.reproducible
    flags = {"NOT PRIVATE": public, "simulation_only": settings.track.simulation_only}
    kinds = [settings.strategy.name, settings.selection.rule]
    return [*kinds, *(name for name, raised in flags.items() if raised)]
