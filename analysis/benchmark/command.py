"""`userdp bench`: a private round beside plain training and beside peers, on the same tokens.

Every side is a process of its own, and they take turns (`userdp.analysis.benchmark.processes`).
Options and named cases are in `userdp.analysis.benchmark.cases`, the sides in
`userdp.analysis.benchmark.private_round` and `userdp.analysis.benchmark.peers`. docs/bench.md says
what is compared and what is not.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from userdp.analysis.benchmark import cases, gpu_case, processes, summary
from userdp.analysis.benchmark.cases import Options
from userdp.analysis.benchmark.peers.work import Spec, Work
from userdp.analysis.benchmark.processes import LeftOutError, Process, SideError
from userdp.sim.common.errors import ConfigurationError

GPU_CASE = "case=gpu"
_PEERS = ("pfl", "flower_ray", "opacus")  # run under the interpreter that peers= names
_TUNED = ("plain", "opacus")  # have a batch size of their own
_USERS_A_TURN = 1000  # a smaller cohort trains several rounds in a turn, of about so many users


def main(arguments: Sequence[str]) -> None:
    """Print a table, or one JSON object with ``--json``; ``--long`` allows the cohorts.

    The case ``gpu`` is a program of its own: `gpu_case`.

    Raises:
        ConfigurationError: an invalid option, a device that is not there, or a side that failed.
    """
    flags = {"--json", "--long"} & set(arguments)
    words = [item for item in arguments if item not in flags]
    if GPU_CASE in words:
        words.remove(GPU_CASE)
        _gpu_case(words, "--json" in flags)
        return
    options = cases.parse(words)
    _check_machine(options, "--long" in flags)
    try:
        figures = cohorts(options) if options.cohorts else measure(options)
    except SideError as error:
        raise ConfigurationError(f"bench: {error}") from None
    if "--json" in flags:
        print(json.dumps(figures, indent=2))
    else:
        summary.show(figures)
    if options.save is not None:
        _save(options.save, figures)


def _gpu_case(words: Sequence[str], as_json: bool) -> None:
    """Check a card and measure it; see `gpu_case`."""

    def timed(options: Options) -> dict[str, Any]:
        _check_machine(options, long=True)
        return cohorts(options) if options.cohorts else measure(options)

    figures = gpu_case.run(words, timed)
    if as_json:
        print(json.dumps(figures, indent=2))
    else:
        gpu_case.show(figures)


def measure(options: Options) -> dict[str, Any]:
    """Time the sides in turn.

    Returns:
        The figures as JSON values: options, sides left out, and `summary.figures`.

    Raises:
        ConfigurationError: the file of record lengths is missing or does not fit.
        SideError: a side failed.
    """
    threads = _threads(options)
    work = cases.spec(options)
    sides: dict[str, Process] = {}
    left_out: list[str] = []
    with processes.closing(sides):
        for name in options.sides:
            with _noted_if_left_out(left_out):
                sides[name] = _started(name, options, work, threads)
        differences = _sum_differences(sides) if options.check else {}
        answers = processes.turns(sides, options.repeats)
        profiles = _profiles(sides) if options.profile else {}
    figures = summary.figures(answers, Work(work), options.peak_tflops, _machines(sides))
    for name, side in figures["sides"].items():
        side["details"] = sides[name].details
        side["sum_difference"] = differences.get(name)
        side["profile"] = profiles.get(name)
    return {"shape": cases.recorded(options), "left_out": left_out, **figures}


def cohorts(options: Options) -> dict[str, Any]:
    """Time our round over cohorts of several sizes, in turn: time a user, and peak memory.

    Returns:
        The figures as JSON values: options, and `summary.cohort_figures`.

    Raises:
        SideError: a side failed.
        LeftOutError: our round cannot run here.
    """
    threads = _threads(options)
    sides: dict[str, Process] = {}
    with processes.closing(sides):
        for users in options.cohorts:
            work = cases.spec(options, users)
            sides[str(users)] = _started("round", options, work, threads)
        for users in options.cohorts:
            if users <= _USERS_A_TURN:  # a larger one warms up within its first users
                sides[str(users)].ask("go")
        averaged = {
            name: processes.Repeated(side, max(1, _USERS_A_TURN // int(name)))
            for name, side in sides.items()
        }
        answers = processes.turns(averaged, options.repeats, warm_up=0)
    return {
        "shape": cases.recorded(options),
        **summary.cohort_figures(answers, _machines(sides)),
    }


def _save(path: str, figures: Mapping[str, Any]) -> None:
    try:
        summary.append(path, figures)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"bench save={path}: {error}") from None


def _started(name: str, options: Options, work: Spec, threads: int) -> Process:
    """The side's process, at its fastest batch size where it has one and none is given."""
    line = cases.line(work, threads)
    launch: dict[str, Any] = {
        "interpreter": options.peers if name in _PEERS else None,
        "patience": options.patience,
    }
    if name in _TUNED and options.batch is None:
        line |= processes.tuned(name, line, **launch)
    return Process(name, line, **launch)


def _threads(options: Options) -> int:
    """The number given, else one for each core that this process may use."""
    return options.threads or len(os.sched_getaffinity(0))


@contextlib.contextmanager
def _noted_if_left_out(left_out: list[str]) -> Iterator[None]:
    """Append the reason to ``left_out`` where a side cannot run here, and go on."""
    try:
        yield
    except LeftOutError as error:
        left_out.append(str(error))


def _machines(sides: Mapping[str, Process]) -> dict[str, dict[str, Any]]:
    return {name: side.machine for name, side in sides.items()}


def _profiles(sides: Mapping[str, Process]) -> dict[str, list[tuple[str, float]]]:
    return {name: side.ask("profile")["profile"] for name, side in sides.items()}


def _sum_differences(sides: Mapping[str, Process]) -> dict[str, float]:
    """The distance of each side's clipped sum from that of our round, relative to ours.

    Sums are compared by a few projections; a side that clips nothing has none.
    """
    answers = {name: side.ask("sum")["sum"] for name, side in sides.items()}
    sums = {name: np.array(numbers) for name, numbers in answers.items() if numbers is not None}
    differences = {}
    for name, numbers in sums.items():
        ours = sums.get(summary.ours(name))
        if ours is not None and ours is not numbers:
            difference = np.linalg.norm(numbers - ours) / np.linalg.norm(ours)
            differences[name] = float(difference)
    return differences


def _check_machine(options: Options, long: bool) -> None:
    """Refuse what cannot run here or takes long, before any side starts."""
    if options.cohorts and not long:
        raise ConfigurationError("bench cohorts: takes minutes; add --long to run it.")
    if options.cohorts and options.lengths is not None:
        raise ConfigurationError("bench cohorts with lengths=: cohorts have records of one length.")
    if "," in options.device or options.device == "cuda:all":
        raise ConfigurationError(f"bench device={options.device}: every side has one; name one.")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigurationError(
            f"bench device={options.device}: torch sees no CUDA device here; use device=cpu."
        )
