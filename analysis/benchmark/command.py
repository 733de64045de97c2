"""`userdp bench`: a private round beside plain training and beside peers, on the same tokens.

Every side is a process of its own, and they take turns (`userdp.analysis.benchmark.processes`); options and named
cases are in `userdp.analysis.benchmark.cases`, what each side does is in `userdp.analysis.benchmark.private_round` and
`analysis.peers`. docs/bench.md says what is compared and what is not.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from userdp.analysis.benchmark import cases, summary
from userdp.analysis.benchmark import processes as bench_drive
from userdp.analysis.benchmark.cases import Shape
from userdp.analysis.benchmark.peers.work import Spec, Work
from userdp.analysis.benchmark.processes import LeftOutError, Process, SideError
from userdp.sim.common.errors import ConfigurationError

_PEERS = ("pfl", "flower_ray", "opacus")  # live where peers= says
_TUNED = ("plain", "opacus")  # have a batch size of their own
_TRAINED_A_TURN = 1000  # users of a small cohort, in several rounds


def main(arguments: Sequence[str]) -> None:
    """Print a table, or one JSON object with ``--json``; ``--long`` allows the cohorts.

    Raises:
        ConfigurationError: an option that cannot be, no such device, or a side that broke.
    """
    flags = {"--json", "--long"} & set(arguments)
    asked = cases.shape([item for item in arguments if item not in flags])
    _check_machine(asked, "--long" in flags)
    try:
        figures = cohorts(asked) if asked.cohorts else measure(asked)
    except SideError as error:
        raise ConfigurationError(f"bench: {error}") from None
    if "--json" in flags:
        print(json.dumps(figures, indent=2))
    else:
        summary.show(figures)
    if asked.save is not None:
        _save(asked.save, figures)


def measure(asked: Shape) -> dict[str, Any]:
    """Time the sides in turn; what each did, in JSON's terms.

    Raises:
        SideError: a side broke.
    """
    threads = _threads(asked)
    work = cases.spec(asked)
    processes: dict[str, Process] = {}
    left_out: list[str] = []
    with bench_drive.closing(processes):
        for name in asked.sides:
            with _unless_left_out(left_out):
                processes[name] = _started(name, asked, work, threads)
        sums = _sums(processes) if asked.check else {}
        answers = bench_drive.turns(processes, asked.repeats)
        profiles = _profiles(processes) if asked.profile else {}
    figures = summary.figures(answers, Work(work), asked.peak_tflops, _machines(processes))
    for name, side in figures["sides"].items():
        side["details"] = processes[name].details
        side["sum_difference"] = sums.get(name)
        side["profile"] = profiles.get(name)
    return {"shape": cases.told(asked), "left_out": left_out, **figures}


def cohorts(asked: Shape) -> dict[str, Any]:
    """Time our round over cohorts of several sizes, in turn: a user's share, and peak memory."""
    threads = _threads(asked)
    processes: dict[str, Process] = {}
    with bench_drive.closing(processes):
        for users in asked.cohorts:
            work = cases.spec(asked, users)
            processes[str(users)] = _started("round", asked, work, threads)
        for users in asked.cohorts:
            if users <= _TRAINED_A_TURN:  # a larger one warms up within its first users
                processes[str(users)].ask("go")
        shares = {
            name: bench_drive.Several(process, max(1, _TRAINED_A_TURN // int(name)))
            for name, process in processes.items()
        }
        answers = bench_drive.turns(shares, asked.repeats, warm_up=0)
    return {
        "shape": cases.told(asked),
        **summary.cohort_figures(answers, _machines(processes)),
    }


def _save(path: str, figures: Mapping[str, Any]) -> None:
    try:
        summary.append(path, figures)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"bench save={path}: {error}") from None


def _started(name: str, asked: Shape, work: Spec, threads: int) -> Process:
    """The side's process, at its best batch where it has one and none is given."""
    line = cases.line(work, threads)
    where: dict[str, Any] = {
        "interpreter": asked.peers if name in _PEERS else None,
        "patience": asked.patience,
    }
    if name in _TUNED and asked.batch is None:
        line |= bench_drive.tuned(name, line, **where)
    return Process(name, line, **where)


def _threads(asked: Shape) -> int:
    """As many as this process may use, unless a number is given."""
    return asked.threads or len(os.sched_getaffinity(0))


@contextlib.contextmanager
def _unless_left_out(left_out: list[str]) -> Iterator[None]:
    try:
        yield
    except LeftOutError as error:
        left_out.append(str(error))


def _machines(processes: Mapping[str, Process]) -> dict[str, dict[str, Any]]:
    return {name: process.machine for name, process in processes.items()}


def _profiles(processes: Mapping[str, Process]) -> dict[str, list[tuple[str, float]]]:
    return {name: process.ask("profile")["profile"] for name, process in processes.items()}


def _sums(processes: Mapping[str, Process]) -> dict[str, float]:
    """How far each side's clipped sum is from that of our round, as a share of ours.

    Told apart by a few projections; a side that clips nothing has none.
    """
    told = {name: process.ask("sum")["sum"] for name, process in processes.items()}
    sums = {name: np.array(numbers) for name, numbers in told.items() if numbers is not None}
    differences = {}
    for name, numbers in sums.items():
        ours = sums.get(summary.ours(name))
        if ours is not None and ours is not numbers:
            difference = np.linalg.norm(numbers - ours) / np.linalg.norm(ours)
            differences[name] = float(difference)
    return differences


def _check_machine(asked: Shape, long: bool) -> None:
    """Refuse before any side starts."""
    if asked.cohorts and not long:
        raise ConfigurationError("bench cohorts: takes minutes; add --long to run it.")
    if asked.cohorts and asked.lengths is not None:
        raise ConfigurationError("bench cohorts with lengths=: cohorts have records of one length.")
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigurationError(
            f"bench device={asked.device}: torch sees no CUDA device here; use device=cpu."
        )
