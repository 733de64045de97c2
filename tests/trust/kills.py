"""Runs that are killed at a random point and resumed, until they end: what the ledger then says.

The points are the moments after each call that changes what is on disk, by whatever library it is
made: the opening of a file to write, the creation of a folder, a replacement, removal, link or
truncation, and fsync; before an fsync is one more, with all written that it makes durable. A run is
a fork of this process, which has loaded all libraries, and a kill is ``os._exit``: no ``finally``
runs, no buffer is flushed.

Every noise vector is written to a diary at the moment it is drawn, with the round that it is for
and the number of intents that are on disk then. Afterwards no vector may have been drawn twice, no
draw may have run ahead of its intent, and the intents must be the rounds of the configuration, no
more and no fewer. A mechanism with correlated noise may draw the row of a lost round anew: that is
a new vector, of a round whose intent is on disk.
"""

from __future__ import annotations

import builtins
import hashlib
import io
import itertools
import json
import os
import random
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import small_world
from userdp.server.ledger import ledger
from userdp.sim import cli
from userdp.sim.common import rng

ROUNDS, KILLED = 4, 137
STRATEGIES = [
    [],
    ["strategy=group_privacy", "strategy.records_per_user=2"],
    ["strategy=matrix_factorization", "strategy.records_per_user=2"],
    ["strategy.clip_quantile=0.5", "strategy.clip_bit_noise=9"],
    ["optimizer=scale_then_privatize"],
    ["strategy.cohort_max=8"],
]


_POINTS: dict[tuple[str, ...], int] = {}  # of a whole run, by its options


@dataclass
class Points:
    """Counts the durable calls of a process, and ends it at one of them."""

    last: int | None  # at which the process ends; None: at none
    passed: int = 0

    def reach(self) -> None:
        self.passed += 1
        if self.passed == self.last:
            os._exit(KILLED)

    def around(self, call: Callable[..., Any], *, before: bool = False) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            if before:
                self.reach()
            result = call(*args, **kwargs)
            self.reach()
            return result

        return watched


def watch(points: Points, folder: Path, diary: Path) -> None:
    """Make this process count its points and write its diary; it cannot be undone."""
    os.fsync = points.around(os.fsync, before=True)
    for name in ("replace", "rename", "unlink", "remove", "truncate", "link", "mkdir"):
        setattr(os, name, points.around(getattr(os, name)))
    opened = io.open

    def watched(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        writes = set(mode) & set("wxa+") and not str(file).startswith(("/dev", "/proc"))
        return (points.around(opened) if writes else opened)(file, mode, *args, **kwargs)

    io.open = builtins.open = watched  # type: ignore[assignment]
    draw, stream, rounds = rng.standard_normal, rng.Secrets.stream, [0]

    def numbered(self: rng.Secrets, purpose: str, number: int) -> rng.SecretStream:
        rounds.append(number)
        return stream(self, purpose, number)

    def noted(stream: rng.SecretStream, size: int) -> Any:
        vector = draw(stream, size)
        if size > 1:  # the update's noise, not that of a single figure
            path = folder / "ledger.jsonl"
            on_disk = path.read_bytes().count(b'"kind":"intent"') if path.exists() else 0
            digest = hashlib.sha256(vector.tobytes()).hexdigest()
            entry = {"noise": digest, "round": rounds[-1], "intents": on_disk}
            with opened(diary, "a") as file:
                file.write(json.dumps(entry) + "\n")
        return vector

    rng.standard_normal, rng.Secrets.stream = noted, numbered  # type: ignore[method-assign]


def forked(
    arguments: list[str],
    folder: Path,
    diary: Path,
    last: int | None,
    points: Points | None = None,
) -> tuple[int, int]:
    """Exit code of the command in a fork that ends at point ``last``, and the points it passed.

    Args:
        arguments: of the command.
        folder: of the run.
        diary: takes a line for each noise vector.
        last: at which the fork ends; None: at none.
        points: counts them; None: `Points`.
    """
    count = diary.with_suffix(".points")
    count.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        points = points or Points(last)
        quiet = os.open(diary.with_suffix(".output"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        watch(points, folder, diary)
        code = 70
        try:
            code = cli.main(arguments)
        except BaseException:  # ``os._exit`` below would lose what it was
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            count.write_text(str(points.passed))
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, int(count.read_text()) if count.exists() else 0


@dataclass(frozen=True)
class Killed:
    """A run that was killed and resumed to its end, and what is wrong with it."""

    kills: int
    vectors: int  # noise vectors drawn
    faults: tuple[str, ...]


def killed(seed: int, number: int, folder: Path) -> Killed:
    """Kill run ``number`` of a sequence at a random point, and its resumption too, now and then.

    Args:
        folder: empty; for the run and the diary.
    """
    chance = random.Random(f"{seed} {number}")
    options = STRATEGIES[number % len(STRATEGIES)]
    run, diary = folder / "run", folder / "diary"
    start = ["cohort=12", f"rounds={ROUNDS}", "privacy.noise_multiplier=2", "privacy.epsilon=null"]
    first = ["run", *small_world.overrides(*start, "optimizer=sgd", *options, f"output={run}")]
    if tuple(options) not in _POINTS:  # a whole run, to know how many points there are
        _POINTS[tuple(options)] = forked(first, run, diary, None)[1]
        for path in (run, diary):
            _away(path)
    total = _POINTS[tuple(options)]
    kills, arguments = 0, first
    while True:
        last = chance.randint(1, total) if kills == 0 or chance.random() < 0.4 else None
        code = forked(arguments, run, diary, last)[0]
        if code != KILLED:
            break
        kills += 1
        if (run / "config.yaml").exists():
            arguments = ["run", f"resume={run}"]
        else:  # killed before there was a run to resume: nothing was drawn
            if drawn(diary):
                return Killed(kills, len(drawn(diary)), ("drawn before there is a run",))
            _away(run)
    return Killed(kills, len(drawn(diary)), faults(run, diary, code))


def faults(run: Path, diary: Path, code: int, rounds: int = ROUNDS) -> tuple[str, ...]:
    """All that is wrong with a run that was killed and resumed."""
    vectors, found = drawn(diary), []
    account = ledger.verify(run / "ledger.jsonl")
    finished = (run / "privacy_statement.json").exists()
    if code != 0 and not (code == 2 and finished):  # killed after its last word: nothing is left
        found.append(f"exit code {code}: {diary.with_suffix('.output').read_text()[-400:]}")
    if account.rounds != rounds:
        found.append(f"{account.rounds} intents for {rounds} rounds")
    if len({entry["noise"] for entry in vectors}) != len(vectors):
        found.append("a noise vector was drawn twice")
    if any(entry["intents"] < entry["round"] for entry in vectors):
        found.append("noise was drawn ahead of its intent")
    if finished and json.loads((run / "privacy_statement.json").read_text())["rounds"] != rounds:
        found.append("the statement counts other rounds than the ledger")
    if finished and forked(["verify", str(run)], run, diary, None)[0] != 0:
        found.append("verify refuses the run")
    return tuple(found)


def drawn(diary: Path) -> list[dict[str, Any]]:
    lines = diary.read_text().splitlines() if diary.exists() else []
    return [json.loads(line) for line in lines]


def _away(path: Path) -> None:
    if path.exists():
        names = (path.with_name(f"{path.name}-{number}") for number in itertools.count())
        path.rename(next(name for name in names if not name.exists()))
