"""One small run, killed at every point at which something is written, and then resumed.

`trust.kills` draws points at random from long runs; this pass leaves none out. A kill leaves the
run folder as it is at that moment, so the pass copies the folder at every point of one whole run,
and then does with each distinct copy what a user does after a kill: ``resume=FOLDER``, and where
that says that the folder holds no run yet, the first command once more.
"""

from __future__ import annotations

import hashlib
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
class State:
    """A run folder as a kill at some points would leave it."""

    points: tuple[int, ...]
    place: Path  # holds the copy, ``run``, and the diary up to then

    @property
    def files(self) -> tuple[str, ...]:
        """What the run folder holds."""
        run = self.place / "run"
        return tuple(sorted(str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()))


@dataclass(frozen=True)
class Ended:
    """What came of the run that was killed in one state."""

    codes: tuple[int, ...]  # of the commands that followed
    faults: tuple[str, ...]


def command(strategy: str, run: Path) -> list[str]:
    """The first command of the run."""
    options = ["cohort=12", f"rounds={ROUNDS}", "optimizer=sgd", *_NOISE, *STRATEGIES[strategy]]
    return ["run", *small_world.overrides(*options, f"output={run}")]


@dataclass
class Copies(kills.Points):
    """Copies the run folder at every point, and ends the process at none."""

    run: Path = Path()
    diary: Path = Path()
    to: Path = Path()
    copying: bool = False  # makes folders and files too

    def reach(self) -> None:
        if self.copying:
            return
        self.passed, self.copying = self.passed + 1, True
        place = self.to / str(self.passed)
        place.mkdir(parents=True)
        if self.run.exists():
            shutil.copytree(self.run, place / "run")
        if self.diary.exists():
            shutil.copy(self.diary, place / "diary")
        self.copying = False


def states(strategy: str, folder: Path) -> list[State]:
    """All distinct states of a run, in order; it is not killed, and ends in ``folder / "run"``."""
    run, diary = folder / "run", folder / "diary"
    points = Copies(None, run=run, diary=diary, to=folder / "states")
    code = kills.forked(command(strategy, run), run, diary, None, points)[0]
    if code:
        raise RuntimeError(diary.with_suffix(".output").read_text()[-2000:])
    found: dict[str, State] = {}
    for place in sorted((folder / "states").iterdir(), key=lambda path: int(path.name)):
        digest = _digest(place / "run")
        before = found[digest].points if digest in found else ()
        found[digest] = State((*before, int(place.name)), place)
    shutil.rmtree(run)
    diary.unlink()
    return list(found.values())


def _digest(run: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(run.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        digest.update(f"{path.relative_to(run)} {len(content)} ".encode() + content)
    return digest.hexdigest() + str(run.exists())


def ended(strategy: str, state: State, folder: Path) -> Ended:
    """What a user comes to from this state, in the folder that `states` used."""
    run, diary = folder / "run", folder / "diary"
    for path in (run, diary, diary.with_suffix(".output")):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if (state.place / "run").exists():
        shutil.copytree(state.place / "run", run)
    if (state.place / "diary").exists():
        shutil.copy(state.place / "diary", diary)
    complete, empty = _complete(run), not kills.drawn(diary)
    codes = [kills.forked(["run", f"resume={run}"], run, diary, None)[0]]
    if codes[0] == 2 and not complete and empty:
        codes.append(kills.forked(command(strategy, run), run, diary, None)[0])
    return Ended(tuple(codes), _faults(run, diary, complete, codes))


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
