"""The protocol of one side of a benchmark: the commands it answers, and how a round is measured.

The driver writes one line of JSON, the spec, and then one word a line: ``go`` (do one round or
pass and time it), ``sum`` (the clipped sum before noise, as a few projections) or ``profile`` (do
one more round, and report which operations or kernels take its time). Every answer is one line of
JSON. Between commands a side waits in a read.
"""

from __future__ import annotations

import contextlib
import json
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from userdp.analysis.benchmark.peers.work import Work

_DIRECTIONS = 4  # projections of a clipped sum


@dataclass(frozen=True, kw_only=True)
class Side:
    """What a side's module offers to the driver."""

    go: Callable[[], object]  # does one round or pass
    clipped_sum: Callable[[], np.ndarray] | None = None  # (D,) float64 before noise, peft's order
    details: dict[str, Any] = field(default_factory=dict)  # settings, shown beside the figures
    processes: bool = False  # whether it works in several processes, whose memory is added up


def serve(side: Side, work: Work, lines: Iterable[str], answers: TextIO) -> None:
    """Answer each command until the input ends.

    Raises:
        ValueError: an unknown command.
    """
    write(answers, {"ready": True, "details": side.details})
    for line in lines:
        word = line.strip()
        if word == "go":
            write(answers, timed(side, work))
        elif word == "sum":
            write(answers, {"sum": fingerprint(side.clipped_sum) if side.clipped_sum else None})
        elif word == "profile":
            write(answers, {"profile": profile(side, work.spec.device)})
        else:
            raise ValueError(f"Expected go, sum or profile, not {word!r}.")


def write(answers: TextIO, values: dict[str, Any]) -> None:
    """Write one answer, a line of JSON."""
    print(json.dumps(values), file=answers, flush=True)


def timed(side: Side, work: Work) -> dict[str, Any]:
    """Do one round: its seconds, its tokens, and the peak memory during it in bytes."""
    cuda = work.spec.device.startswith("cuda")
    _reset_peak()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    side.go()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    gpu = torch.cuda.max_memory_allocated() if cuda else None
    if cuda:
        torch.cuda.empty_cache()  # the next side's turn, on the same card
    return {
        "seconds": seconds,
        "tokens": int(work.lengths.sum()),
        "peak_bytes": _peak_bytes(side.processes),
        "gpu_peak_bytes": gpu,
    }


def profile(side: Side, device: str, most: int = 6) -> list[tuple[str, float]]:
    """The operations or kernels that take most of a round's time in this process.

    Args:
        most: how many.

    Returns:
        (name, share of the time), largest first.
    """
    cuda = device.startswith("cuda")
    activity = torch.profiler.ProfilerActivity
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.profiler.profile(activities=[activity.CUDA if cuda else activity.CPU]) as seen:
            side.go()
    name = "self_device_time_total" if cuda else "self_cpu_time_total"
    times = {event.key: float(getattr(event, name)) for event in seen.key_averages()}
    total = sum(times.values()) or 1.0
    largest = sorted(times.items(), key=lambda item: -item[1])[:most]
    return [(key[:60], time_ / total) for key, time_ in largest]


def fingerprint(clipped_sum: Callable[[], np.ndarray]) -> list[float]:
    """Projections of a sum (D,) on a few fixed random directions of unit length."""
    total = clipped_sum()
    draw = np.random.Generator(np.random.PCG64(3))
    signs = draw.choice([-1.0, 1.0], (_DIRECTIONS, len(total)))
    projections: list[float] = (signs @ total / np.sqrt(len(total))).tolist()
    return projections


def _reset_peak() -> None:
    """Reset the kernel's record of peak memory, where it has one."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes(processes: bool) -> int | None:
    """Peak resident memory of this process, or the sum over it and its descendants; Linux only."""
    if not Path("/proc/self/status").exists():
        return None
    process_id = int(Path("/proc/self/stat").read_text().split()[0])
    return sum(
        _peak(number) for number in (_descendants(process_id) if processes else {process_id})
    )


def _peak(process_id: int) -> int:
    """Peak resident memory of one process in bytes; 0 if it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return 0


def _descendants(root: int) -> set[int]:
    """Ids of a process and all processes below it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(
                path.read_text(encoding="utf-8").rpartition(")")[2].split()[1]
            )
    family = {root}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return family
