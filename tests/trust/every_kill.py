"""One small run, killed at every point at which something is written, and then resumed.

`userdp.trust.kills` draws points at random from long runs; this pass leaves none out. What a user
does after a kill is tried in this order: ``resume=FOLDER``; where the folder holds no run yet, the
first command once more.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from trust import kills

from helpers import small_world

ROUNDS = 3
STRATEGIES = {
    "user_wise": [],
    "matrix_factorization": ["strategy=matrix_factorization", "strategy.records_per_user=2"],
}
_NOISE = ["privacy.noise_multiplier=2", "privacy.epsilon=null"]


@dataclass(frozen=True)
class Ended:
    """What came of the run that was killed at one point."""

    point: int
    files: tuple[str, ...]  # in the run folder after the kill
    codes: tuple[int, ...]  # of the commands that followed
    faults: tuple[str, ...]


def command(strategy: str, run: Path) -> list[str]:
    """The first command of the run."""
    options = ["cohort=12", f"rounds={ROUNDS}", "optimizer=sgd", *_NOISE, *STRATEGIES[strategy]]
    return ["run", *small_world.overrides(*options, f"output={run}")]


def count(strategy: str, folder: Path) -> int:
    """How many points a whole run passes, once its caches are filled."""
    for name in ("warm", "counted"):
        arguments = command(strategy, folder / name)
        code, points = kills.forked(arguments, folder / name, folder / f"{name}-diary", None)
        if code:
            raise RuntimeError((folder / f"{name}-diary.output").read_text()[-2000:])
    return points


def killed_at(strategy: str, point: int, folder: Path) -> Ended:
    """Kill a run at one point, and end it as a user would.

    Args:
        folder: for this run; made anew.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run, diary = folder / "run", folder / "diary"
    first = command(strategy, run)
    code = kills.forked(first, run, diary, point)[0]
    left = tuple(sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()))
    if code != kills.KILLED:
        return Ended(point, left, (code,), (f"exit code {code} in place of a kill",))
    complete = _complete(run)
    codes = [kills.forked(["run", f"resume={run}"], run, diary, None)[0]]
    if codes[0] == 2 and not complete and not kills.drawn(diary):
        codes.append(kills.forked(first, run, diary, None)[0])
    return Ended(point, left, tuple(codes), _faults(run, diary, complete, codes))


def _complete(run: Path) -> bool:
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    return bool(lines) and '"summary/' in lines[-1]


def _faults(run: Path, diary: Path, complete: bool, codes: list[int]) -> tuple[str, ...]:
    output = diary.with_suffix(".output").read_text()
    if codes[-1] != (2 if complete else 0):
        return (f"exit codes {codes}: {output[-300:]}",)
    faults = list(kills.faults(run, diary, codes[-1], ROUNDS))
    numbers = [json.loads(line)["round"] for line in (run / "metrics.jsonl").open()]
    if numbers != sorted(numbers) or numbers.count(0) != 1:
        faults.append(f"metrics.jsonl has the rounds {numbers}")
    if "Traceback" in output:
        faults.append(f"a traceback: {output[-600:]}")
    if stale := [path.name for path in run.rglob("*.tmp")]:
        faults.append(f"left behind: {stale}")
    if (run / "checkpoint" / "inputs.json").exists():
        faults.append("the digests of the records are still there")
    return tuple(faults)
