"""The process of one side of `userdp bench`.

    python -m userdp.analysis.benchmark.worker NAME [tune]

It reads the spec and then commands from standard input, and answers with one line of JSON each on
standard output (`userdp.analysis.benchmark.peers.side`). All other output of libraries goes to
standard error. A side whose package is not installed says so and ends.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
from collections.abc import Callable
from typing import Any

# Side -> module and function. Only the first three need more of userdp than this package.
SIDES = {
    "round": ("userdp.analysis.benchmark.private_round", "user_wise"),
    "record_round": ("userdp.analysis.benchmark.private_round", "group_privacy"),
    "fused_plain": ("userdp.analysis.benchmark.fused_plain", "main"),
    "plain": ("userdp.analysis.benchmark.peers.plain", "main"),
    "loop": ("userdp.analysis.benchmark.peers.loop", "main"),
    "pfl": ("userdp.analysis.benchmark.peers.pfl", "main"),
    "flower_ray": ("userdp.analysis.benchmark.peers.flower_ray", "main"),
    "opacus": ("userdp.analysis.benchmark.peers.opacus", "main"),
}
_PACKAGES = ("torch", "transformers", "peft", "pfl", "flwr", "ray", "opacus", "dp-accounting")


def main(name: str, *words: str) -> None:
    """Serve one side, or with the word "tune" answer with its fastest settings.

    Args:
        name: a key of `SIDES`.
        words: "tune" or nothing.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    line = json.loads(sys.stdin.readline())
    threads = line.pop("threads")
    try:
        import torch

        torch.set_num_threads(threads)
        module_name, function = SIDES[name]
        module = importlib.import_module(module_name)
    except ImportError as error:
        print(json.dumps({"left_out": str(error)}), file=answers, flush=True)
        return
    from userdp.analysis.benchmark.peers import side, work

    task = work.Work(work.Spec(**line))
    if "tune" in words:
        side.write(answers, module.tune(task))
        return
    side.write(answers, {"machine": machine(task.spec.device)})
    getattr(module, function)(task, lambda built: side.serve(built, task, sys.stdin, answers))


def machine(device: str) -> dict[str, Any]:
    """The machine and packages that influence a side's speed, without host names or paths.

    Args:
        device: of torch; the GPU is described where it is one.
    """
    from importlib import metadata

    import torch

    cuda = device.startswith("cuda")
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gigabytes": round(
            os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1
        ),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "matmul_tflops": matmul_tflops() if cuda else None,
        "python": platform.python_version(),
        **versions,
    }


def matmul_tflops(size: int = 8192, repeats: int = 20) -> float:
    """TFLOP/s of a large dense bf16 product on this card: an upper bound for any training.

    Args:
        size: rows and columns of both factors.
        repeats: timed products, after three that are not timed.
    """
    import torch

    left = torch.ones(size, size, device="cuda", dtype=torch.bfloat16)
    new_event: Callable[..., Any] = torch.cuda.Event  # untyped in torch
    begin, end = (new_event(enable_timing=True) for _ in range(2))
    for repeat in range(repeats + 3):
        if repeat == 3:
            begin.record()
        left @ left
    end.record()
    torch.cuda.synchronize()
    del left
    torch.cuda.empty_cache()
    milliseconds = float(begin.elapsed_time(end))
    return 2 * size**3 * repeats / milliseconds / 1e9


def _cpu() -> str:
    """The model name of the processor."""
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main(*sys.argv[1:])
