"""One side of `userdp bench`, a process: ``python -m userdp.analysis.benchmark.worker NAME [tune]``.

Reads the spec and then what to do from standard input, answers on standard output, a line of JSON
each (`userdp.analysis.benchmark.peers.side`). Whatever else libraries print goes to standard error. A side whose
package is not installed says so and ends.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
from typing import Any

# The module and function of each side; only `bench_round` needs userdp itself.
SIDES = {
    "round": ("userdp.analysis.benchmark.private_round", "user_wise"),
    "record_round": ("userdp.analysis.benchmark.private_round", "group_privacy"),
    "plain": ("userdp.analysis.benchmark.peers.plain", "main"),
    "loop": ("userdp.analysis.benchmark.peers.loop", "main"),
    "pfl": ("userdp.analysis.benchmark.peers.pfl", "main"),
    "flower_ray": ("userdp.analysis.benchmark.peers.flower_ray", "main"),
    "opacus": ("userdp.analysis.benchmark.peers.opacus", "main"),
}
_PACKAGES = ("torch", "transformers", "peft", "pfl", "flwr", "ray", "opacus", "dp-accounting")


def main(name: str, *words: str) -> None:
    """Serve one side, or answer what its best batch is."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    line = json.loads(sys.stdin.readline())
    threads = line.pop("threads")
    try:
        import torch

        torch.set_num_threads(threads)
        place, function = SIDES[name]
        module = importlib.import_module(place)
    except ImportError as error:
        print(json.dumps({"left_out": str(error)}), file=answers, flush=True)
        return
    from userdp.analysis.benchmark.peers import side, work

    given = work.Work(work.Spec(**line))
    if "tune" in words:
        side.tell(answers, module.tune(given))
        return
    side.tell(answers, {"machine": machine(given.spec.device)})
    getattr(module, function)(given, lambda one: side.serve(one, given, sys.stdin, answers))


def machine(device: str) -> dict[str, Any]:
    """Where the side runs: what bears on its speed, and no name of a host or a path."""
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
    """What a large dense bf16 product reaches on this card: a bound that no training passes."""
    import torch

    left = torch.ones(size, size, device="cuda", dtype=torch.bfloat16)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for repeat in range(repeats + 3):
        if repeat == 3:
            begin.record()
        left @ left
    end.record()
    torch.cuda.synchronize()
    del left
    torch.cuda.empty_cache()
    return 2 * size**3 * repeats / begin.elapsed_time(end) / 1e9


def _cpu() -> str:
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
