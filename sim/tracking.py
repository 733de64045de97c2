"""Which trackers a run has: ``metrics.jsonl`` always, and beside it what ``track`` names."""

from __future__ import annotations

from sim import track, track_tensorboard, track_wandb
from sim.settings import Settings


def check(settings: Settings) -> None:
    """Refuse a sink that is not installed, before a round is spent.

    Raises:
        ConfigurationError: names what to install.
    """
    if settings.track.sink == "tensorboard":
        track_tensorboard.check()


def of(settings: Settings) -> track.Tracker:
    """The trackers of a run, not started yet."""
    keep, folder = settings.track.simulation_only, settings.folder
    lines = track.JsonlTracker(folder / "metrics.jsonl", simulation_only=keep)
    if settings.track.sink == "jsonl":
        return lines
    if settings.track.sink == "tensorboard":
        board = track_tensorboard.TensorBoardTracker(folder / "tensorboard", simulation_only=keep)
        return track.Fanout(lines, board)
    wandb = track_wandb.WandbTracker(
        folder,
        project=settings.track.project,
        group=settings.track.group or settings.sweep,
        job_type=settings.strategy.name,
        name=folder.name,
        tags=_tags(settings),
        simulation_only=keep,
    )
    return track.Fanout(lines, wandb)


def _tags(settings: Settings) -> list[str]:
    """What a list of runs is filtered by."""
    public = settings.strategy.name == "non_private" or settings.privacy.reproducible
    flags = {"NOT PRIVATE": public, "simulation_only": settings.track.simulation_only}
    kinds = [settings.strategy.name, settings.selection.rule]
    return [*kinds, *(name for name, raised in flags.items() if raised)]
