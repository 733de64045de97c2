"""The runtime ``ray``: Flower's simulation engine, whose nodes are served by processes of Ray.

Each process (an *actor*) loads the base model once and serves any node; records are mapped from the
cache, which all share. The engine itself is put together in `userdp.sim.runtime.ray_engine`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from userdp.sim.common.errors import ConfigurationError, StoppedError
from userdp.sim.runtime import registry, resident
from userdp.sim.runtime.registry import Asked, Nodes

if TYPE_CHECKING:
    from flwr.serverapp import Grid

NAME = "ray"
_OPTIONS = ("actors", "cpus", "gpus")
_LONGEST_REASON = 300  # characters of what Ray says when it does not start


@dataclass(frozen=True, kw_only=True)
class Actors:
    """How many processes serve the nodes, and what each of them may use."""

    count: int
    cpus: int  # cores of each
    gpus: float  # of each; below 1: a part of one

    @classmethod
    def of(cls, asked: Asked) -> Actors:
        """The processes that a configuration asks for, or the default of this machine.

        Raises:
            ConfigurationError: an option is unknown or out of range, or the machine has fewer GPUs.
        """
        registry.check_options(NAME, asked, _OPTIONS)
        actors, cpus = (_whole(asked, name) for name in ("actors", "cpus"))
        cores, gpus_here = _cores(), 0 if asked.device == "cpu" else _gpus()
        gpus = _gpus_each(asked, gpus_here)
        room = int(gpus_here // gpus) if gpus else max(1, cores // (cpus or 1))
        count = actors or min(asked.nodes, max(1, room))
        if gpus * count > gpus_here:
            raise ConfigurationError(
                f"runtime.options.gpus={gpus:g}: {count} processes need {gpus * count:g} GPUs, "
                f"and device={asked.device} has {gpus_here} here; set fewer runtime.options.actors "
                "or GPUs."
            )
        return cls(count=count, cpus=cpus or max(1, cores // count), gpus=gpus)

    def device(self, asked: str) -> str:
        """The device of an actor; Ray shows it no GPU but its own, which is then the first."""
        if self.gpus:
            return asked.partition(":")[0]
        return "cpu" if asked == "auto" else asked


def _whole(asked: Asked, name: str) -> int | None:
    value = asked.options.get(name)
    if value is None or (type(value) is int and value >= 1):
        return value
    raise ConfigurationError(
        f"runtime.options.{name}={value}: should be a whole number, 1 or more."
    )


def _gpus_each(asked: Asked, here: int) -> float:
    value = asked.options.get("gpus")
    if value is None:
        return 1.0 if here else 0.0
    number = not isinstance(value, bool) and isinstance(value, int | float)
    if not number or not (0 <= value < 1 or value == int(value) >= 1):
        raise ConfigurationError(
            f"runtime.options.gpus={value}: should be 0, a part of 1, or a whole number."
        )
    if not value and asked.device.startswith("cuda"):
        raise ConfigurationError(
            f"runtime.options.gpus={value}: device={asked.device} needs some; set device=cpu, or "
            "leave out the option."
        )
    return float(value)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> int:
    import torch  # slow to import

    return torch.cuda.device_count()


def _check(asked: Asked) -> None:
    """Refuse what this machine cannot serve; starts nothing.

    Raises:
        ConfigurationError: Ray is not installed, or with another version of Flower; or as
            `Actors.of`.
    """
    Actors.of(asked)
    if importlib.util.find_spec("ray") is None:
        raise ConfigurationError(f"runtime.kind={NAME}: Ray is missing; install userdp[ray].")
    try:
        from userdp.sim.runtime import ray_engine

        running = ray_engine.running()
    except ImportError as error:
        version = importlib.metadata.version("flwr")
        raise ConfigurationError(
            f"runtime.kind={NAME}: flwr {version} has no {error.name}, of which this version of "
            "userdp makes its engine; install userdp[ray], which names the versions that fit."
        ) from None
    if running:
        raise ConfigurationError(
            f"runtime.kind={NAME}: this process uses Ray already; call ray.shutdown() before."
        )


@registry.refusing(_check)
@contextlib.contextmanager
def start(nodes: Nodes) -> Iterator[Grid]:
    """The runtime ``ray``: starts Ray on this machine, and ends it with the run.

    Raises:
        StoppedError: Ray does not start; no round was spent.
    """
    from userdp.sim.runtime import ray_engine  # needs Ray

    device = str(nodes.config.get("device", "auto"))
    actors = Actors.of(Asked(nodes=nodes.count, options=nodes.options, device=device))
    config: dict[str, Any] = {**nodes.config, "device": actors.device(device)}
    make = functools.partial(resident.from_json, nodes.make_app)
    app = functools.partial(resident.app, json.dumps(config), make)
    with contextlib.ExitStack() as opened:
        try:
            engine = ray_engine.engine(app, nodes.count, actors.count, actors.cpus, actors.gpus)
            grid = opened.enter_context(engine)
        except Exception as error:  # it has seen no record: its text may be shown
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST_REASON]
            folder = config.get("resume") or config.get("output")
            raise StoppedError(
                f"runtime.kind={NAME} did not start ({reason}); no round was spent. Mend the "
                f"cause, and resume with: userdp run resume={folder}"
            ) from None
        yield grid
