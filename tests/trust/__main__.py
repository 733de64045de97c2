"""The long checks of ``make trust``: fuzz, kills, mutations, and matrices of slow tests.

Two parts run at a time, since the machines that it is for have two cores. Prints a line for each,
and with exit code 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = Path(__file__).parents[1]
SEED = 14
FUZZ, NONSENSE, KILLS = 500, 600, 50
NEIGHBOURS = "tests/clients/training/test_file_neighbours.py"
FIREWALL = "tests/sim/test_firewall.py"
AUDITS = "tests/analysis/audit/test_verdicts.py"
FILES = "tests/sim/data/sources/test_hostile_files.py"
FAULTS = "tests/sim/runtime/test_superlink_faults.py"
COMPILED = [
    "tests/clients/training/test_recompilations.py",
    "tests/clients/training/test_device_faults.py",
    "tests/clients/training/test_devices.py",
    "tests/clients/training/test_block_gradient.py",
    "tests/clients/models/test_acceleration.py",
    "tests/clients/quantization/test_quantization.py",
]
FAMILIES = "tests/clients/models/test_families.py"
RUNTIMES = [
    "tests/sim/runtime/test_ray.py",
    "tests/sim/runtime/test_equal_results.py",
    "tests/sim/test_quantized_runs.py",
]
DEMO = "tests/sim/test_readable_demo.py"
EVERY_KILL = "tests/trust/test_every_kill.py"
Row = tuple[str, str, bool]  # what was tried, what came of it, whether all was right


def fuzzed(share: int, shares: int) -> Row:
    """Every ``shares``-th configuration from ``share`` on."""
    from trust import fuzz

    with tempfile.TemporaryDirectory() as folder:
        outcomes = fuzz.tried(SEED, range(share, FUZZ, shares), Path(folder))
    for configuration, outcome in outcomes:
        if outcome.kind == "fault":
            print(" ".join(configuration), outcome.told, sep="\n", file=sys.stderr)
    counts = fuzz.counts(outcomes)
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    return f"{len(outcomes)} configurations", told, not counts["fault"]


def senseless(share: int, shares: int) -> Row:
    """Every ``shares``-th configuration with a value that makes no sense, from ``share`` on."""
    from trust import nonsense

    results = nonsense.tried(SEED, range(share, NONSENSE, shares))
    for result in filter(lambda one: one.fault, results):
        print(result.kind, *result.broken.words, result.told, sep="\n", file=sys.stderr)
    counts = Counter(result.kind for result in results)
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    return f"{len(results)} nonsense values", told, not any(one.fault for one in results)


def killed() -> Row:
    """All kills, until there are as many as asked for."""
    from trust import kills

    runs: list[kills.Killed] = []
    with tempfile.TemporaryDirectory() as folder:
        while sum(run.kills for run in runs) < KILLS:
            place = Path(folder) / str(len(runs))
            place.mkdir()
            runs.append(kills.killed(SEED, len(runs), place))
    faults = Counter(fault for run in runs for fault in run.faults)
    total, vectors = sum(run.kills for run in runs), sum(run.vectors for run in runs)
    told = f"{len(runs)} runs resumed to the end, {vectors} noise vectors, {len(faults)} faults"
    for fault in faults:
        print(fault, file=sys.stderr)
    return f"{total} kills", told, not faults


def mutated() -> Row:
    """All mutations."""
    from trust import mutations

    with tempfile.TemporaryDirectory() as folder:
        tree = mutations.copied(Path(folder))
        alive = [m.name for m in mutations.MUTATIONS if mutations.survives(m, tree)]
    caught = len(mutations.MUTATIONS) - len(alive)
    told = f"{caught} caught" + (f"; survived: {', '.join(alive)}" if alive else "")
    return f"{len(mutations.MUTATIONS)} mutations", told, not alive


def tested(what: str, *arguments: str) -> Row:
    """The long tests that some arguments of pytest name."""
    options = ["-p", "no:xdist", "-m", "trust", "--tb=short"]
    command = [sys.executable, "-m", "pytest", *options, *arguments]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
    if done.returncode < 0:
        return what, f"ended by signal {-done.returncode}", False
    last = done.stdout.strip().splitlines()[-1:]
    return what, "".join(last).strip("= "), not done.returncode


PARTS: dict[str, Callable[[], Row]] = {  # the longest first, so that two processes end together
    "audits": lambda: tested("audits and hostile files", AUDITS, FILES),
    "neighbours-1": lambda: tested("neighbours, float32", NEIGHBOURS, "-k", "not bfloat16"),
    "neighbours-2": lambda: tested("neighbours, bfloat16", NEIGHBOURS, "-k", "bfloat16"),
    "superlink": lambda: tested("faults of a deployment", FAULTS),
    "points": lambda: tested("every kill, full disks", EVERY_KILL),
    "kills": killed,
    "compiled": lambda: tested("compiled layers", *COMPILED),
    "demo": lambda: tested("the default run can be read", DEMO),
    "families": lambda: tested("families of transformers", FAMILIES),
    "runtimes": lambda: tested("Ray and masked SuperNodes", *RUNTIMES),
    "firewall": lambda: tested("firewall", FIREWALL),
    "mutations": mutated,
    "nonsense-1": lambda: senseless(0, 2),
    "nonsense-2": lambda: senseless(1, 2),
    "fuzz-1": lambda: fuzzed(0, 2),
    "fuzz-2": lambda: fuzzed(1, 2),
}
PROCESSES = 2


def line_of(part: str) -> str:
    """The line of the table of a part, computed in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "trust", "--part", part],
        stdout=subprocess.PIPE,
        text=True,
        cwd=TESTS.parent,
        env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
    )
    line = done.stdout.strip() or f"FAULT  {part}: it did not end"
    print(line, flush=True)
    return line


def main() -> int:
    """Run all parts, or one of them; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make trust", description=__doc__)
    parser.add_argument("--part", choices=[*PARTS])
    part, start = parser.parse_args().part, time.monotonic()
    if part is not None:
        tried, told, right = PARTS[part]()
        seconds = time.monotonic() - start
        print(f"{'ok   ' if right else 'FAULT'}  {tried:32}  {told}  ({seconds:.0f} s)")
        return 0 if right else 1
    with ThreadPoolExecutor(PROCESSES) as processes:
        lines = list(processes.map(line_of, PARTS))
    print(f"{(time.monotonic() - start) / 60:.1f} minutes")
    return 0 if all(line.splitlines()[-1].startswith("ok") for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
