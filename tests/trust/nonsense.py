"""One setting with a value that makes no sense: refused in one line that names it, or it runs.

The settings are those of the classes, walked, so that a new one is tried without being listed here.
A seed gives every configuration. Nothing may end in a traceback or take longer than a limit, and a
value that no number can be (NaN, infinity, a list) has to be refused where a number is asked for.
"""

from __future__ import annotations

import contextlib
import io
import random
import re
import signal
import traceback
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from trust import fuzz

from helpers import small_world
from userdp.analysis.audit import options as audit
from userdp.analysis.benchmark import cases
from userdp.analysis.comparison import jobs as comparison
from userdp.server.mechanisms.registry import MECHANISMS
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.common.plain_text import printable
from userdp.sim.config import hydra_compose, settings
from userdp.sim.planning import planner, time_limit
from userdp.sim.run import prepare
from userdp.sim.sweep import jobs as sweep_jobs
from userdp.sim.sweep.shared_inputs import SharedInputs

SECONDS = 30  # in which a configuration has to be refused or prepared, on a busy core

# Never a number, of whatever range.
NO_NUMBERS = (
    "nan", "inf", "-inf", "x", "true", "[]", "[1,1]", "{}", "{a:1}", "'1e3'", "'１２'", "'1_0'",
    "1e308", "1e30", "-1e308", "-1e30", "1" + "0" * 400, "a/b", "'<script>alert(1)</script>'", "''",
    "", "'\x1b[31mred'", "-9223372036854775809", "'" + "9" * 5000 + "'",
)  # fmt: skip
# Numbers that some setting may take, and others not.
EXTREME = ("-0.0", "0", "-1", "1.5", "1e3", "1e30", "1e-320", "1e-300", "1e-12", "1e-9", "1e9",
           "9223372036854775808", "9223372036854775807", "1000000000", "4294967296", "1_0",
           "null", "2", "1")  # fmt: skip
# Not valid in any place: what Hydra and its interpolations make of them.
REFERENCES = ("${nope}", "${oc.env:USERDP_NOT_SET}", "${nope:1}", "${.x.y}", "${", "???",
              "${oc.decode:'['}", "${now:1,2,3}", "${unless:1}")  # fmt: skip
# Whole words of a command line.
WORDS = (
    "rounds", "=3", "rounds='", 'rounds="', "rounds=(", "rounds=[1", "rounds={a", "+rounds=3",
    "+a.b.c=1", "+nope=1", "nope=1", "~rounds", "~data.path", "~data", "~optimizer", "rounds=1,2",
    "rounds=range(1,3)", "rounds=choice(1,2)", "seed=interval(0,1)", "data=nope", "nope=x",
    "strategy=a,b", "strategy=[a,b]",
    "+strategy=user_wise", "strategy@x=user_wise", "data@data=csv",
    "++rounds=1", "++strategy.options=3", "+strategy.options={tau:1}", "+experiment=nope",
    "+experiment=[]", "hydra/launcher=nope", "hydra.run.dir=x", "hydra.job.chdir=true",
    "hydra.nope=1", "hydra/job_logging=nope", "--cfg", "-c", "--multirun=1", "rounds==3",
    "rounds:3", "rounds=3=4", "model.lora=null", "model.lora=3", "model=null", "data=null",
    "data=3", "strategy=null", "strategy=''", "optimizer=[1]", "optimizer=null", "privacy=default2",
    "selection=''", "runtime=null", "track=''", "plan=null", "engine=[]", "schedule.nope=1",
    "data.options=3", "data.options=[1]", "+data.options.a=1", "runtime.options=[1]",
    "+runtime.options.a=1", "optimizer.betas=[2,3]", "+optimizer.betas=[]", "+optimizer._x=1",
    "+optimizer.params=1", "+optimizer.lr2=1", "+optimizer.foreach=x", "+optimizer.betas=3",
    "rounds=${rounds}", "rounds=${cohort}", "cohort=${rounds}", "output=''", "output=", "output=[]",
    "output=3", "output='a\nb'", "output='a\x00b'", "resume=''", "resume=/dev/null",
    "resume=nowhere",
    "sweep=3", "device=cuda:99", "device=meta", "device=''", "device=cpu:-1", "device=nope",
    "hydra.sweeper.params=3", "hydra=x", "hydra.searchpath=[nope]", "hydra.searchpath=3",
    "é=1", "rounds=\u0663", "rounds= 3", " rounds=3", "rounds=\t3", "rounds=3 4", "rounds=1e999",
    "data.classes=[a,a]", "+data.classes=[]", "++data.classes=1000000000", "+data.label=''",
    "++data.text=[a]", "++data.user=[a]", "++data.user=''", "++data.text=''", "++data.path=''",
    "++data.path=[]", "++data.path='${oc.env:USERDP_NOT_SET}'", "++model.path=''", "+model.nope=1",
    "model.lora.targets=[]", "model.lora.targets=[1]", "model.lora.targets=''",
    "model.lora.targets='('", "model.lora.targets='['", "model.lora.targets=[a,a]",
    "model.lora.targets=null", "model.lora.targets=.*", "++model.revision=''",
    "++model.revision=[1]",
    "privacy.accountant=''", "privacy.accountant=os.system", "privacy.accountant=[pld]",
    "privacy.accountant=a.b", "strategy.name=os.path", "strategy.name=''", "strategy.name=a..b",
    "selection.rule=''", "selection.rule=os.system", "optimizer.name=os.system",
    "optimizer.name=''",
    "runtime.kind=os.system", "data.format=os.system", "data.format=''", "strategy.name=[]",
    "selection.rule=[]", "data.format=[]", "optimizer.name=[]", "runtime.kind=[]",
    "schedule.name=[]",
)  # fmt: skip


@dataclass(frozen=True)
class Broken:
    """A configuration, and the names one of which a refusal has to hold."""

    verb: str  # of `VERBS`
    words: tuple[str, ...]
    names: tuple[str, ...]
    never: bool  # no value of this kind can be valid


@dataclass(frozen=True)
class Result:
    """What became of one: "refused", "success", or the kind of its fault."""

    broken: Broken
    kind: str
    told: str

    @property
    def fault(self) -> bool:
        """Whether it is one."""
        return self.kind not in ("refused", "success")


class HangError(Exception):
    """The limit of time was reached."""


def leaves(kind: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, type) of every field of settings, nested ones too."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for item in fields(kind):
        inner = hints[item.name]
        while typing.get_origin(inner) is typing.Annotated:
            inner = typing.get_args(inner)[0]
        name = f"{prefix}{item.name}"
        if is_dataclass(inner) and isinstance(inner, type):
            yield from leaves(inner, f"{name}.")
        else:
            yield name, inner


def is_number(kind: Any) -> bool:
    """Whether the type takes numbers and nothing else but None or choices of text."""
    parts = typing.get_args(kind) or (kind,)
    if typing.get_origin(kind) in (tuple, list, dict, typing.Literal):
        return False
    return any(_base(part) in (int, float) for part in parts) and not any(
        typing.get_origin(_base(part)) is tuple for part in parts
    )


def _base(kind: Any) -> Any:
    while typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    return kind


def _settings() -> Iterator[tuple[str, list[str], str, bool]]:
    """(verb, further words, name, whether a number) of every setting of a run."""
    for name, kind in leaves(settings.Settings):
        if name in ("strategy.options", "optimizer", "data.options", "runtime.options"):
            continue
        more = {"data.users": ["data=synthetic", "~data.path"]}.get(name, [])
        if name.startswith("plan."):
            yield "plan", more, name, is_number(kind)
        elif not name.startswith(("output", "resume", "sweep")):
            yield "prepare", more, name, is_number(kind)
    for strategy in MECHANISMS:
        hints = typing.get_type_hints(MECHANISMS.find(strategy))
        target = ["privacy.epsilon=null"] if strategy == "non_private" else []
        for option in MECHANISMS.find(strategy).options():
            number = is_number(hints[option])
            yield "prepare", [f"strategy={strategy}", *target], f"strategy.{option}", number
    options = {"adam": ["lr", "eps", "weight_decay", "betas", "amsgrad"], "adamw": ["weight_decay"],
               "sgd": ["lr", "momentum", "dampening", "nesterov"], "adam_bc": ["betas", "floor"],
               "scale_then_privatize": ["lr", "eps", "scale_eps"]}  # fmt: skip
    for optimizer, names in options.items():
        for name in names:
            number = name not in ("betas", "amsgrad", "nesterov")
            yield "prepare", [f"optimizer={optimizer}"], f"optimizer.{name}", number


def _commands() -> Iterator[tuple[str, list[str], str, bool]]:
    for name, kind in typing.get_type_hints(audit.Options).items():
        yield "audit", [], f"audit.{name}", is_number(kind)
    for name, kind in typing.get_type_hints(cases.Options).items():
        yield "bench", [], name, is_number(kind)
    for name in typing.get_type_hints(comparison.Comparison):
        yield "compare", [], f"compare.{name}", False


FIELDS = [*_settings(), *_commands()]


def broken(seed: int, number: int) -> Broken:
    """Configuration ``number`` of the sequence that a seed gives; numbers go through all fields."""
    chance = random.Random(f"nonsense {seed} {number}")
    if number % 4 == 3:
        word = WORDS[(number // 4 + 7 * seed) % len(WORDS)]
        name = re.split(r"[=:,]", word.strip(" +~"))[0] or word
        return Broken("sweep" if chance.random() < 0.2 else "prepare", (word,), (name, word), False)
    verb, more, name, numeric = FIELDS[(number * 7 + seed) % len(FIELDS)]
    values = chance.choice([NO_NUMBERS, EXTREME, NO_NUMBERS, EXTREME, REFERENCES])
    value = chance.choice(values)
    never = values is NO_NUMBERS and numeric
    added = "++" if verb in ("prepare", "plan") else ""
    words = (*more, f"{added}{name}={value}")
    return Broken(verb, words, (name, name.rpartition(".")[0] or name), never)


def _prepared(words: list[str]) -> None:
    parsed, _ = hydra_compose.settings(small_world.overrides("device=cpu", *words))
    prepare.prepare(parsed, _INPUTS.load)


def _planned(words: list[str]) -> None:
    usual = ["privacy.users=1000", "cohort=20", "rounds=3"]
    parsed, _ = hydra_compose.settings([*usual, *words])
    planner.bare(parsed)


def _swept(words: list[str]) -> None:
    for job in sweep_jobs.compose(small_world.overrides(*words), Path("sweep")):
        prepare.prepare(job.settings, _INPUTS.load)


def _compared(words: list[str]) -> None:
    overrides = [
        f"data.path={small_world.folder() / 'mail.jsonl'}",
        f"model.path={small_world.model()}",
    ]
    found = comparison.setup(["data=jsonl", "model=local", *overrides, *words])
    jobs = comparison.grid(
        found.comparison, found.variants, ["random"], found.comparison.epsilons[:1]
    )
    for job in jobs[:2]:
        found.settings(job)


VERBS: dict[str, Callable[[list[str]], Any]] = {
    "prepare": _prepared,
    "plan": _planned,
    "sweep": _swept,
    "audit": audit.parse,
    "bench": cases.parse,
    "compare": _compared,
}
_INPUTS = SharedInputs()


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise `HangError` in the block after so many seconds; in the main thread of a process."""

    def ring(*_: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(one: Broken) -> Result:
    """What becomes of a configuration, without a folder of a run."""
    try:
        with limited(SECONDS), contextlib.redirect_stderr(io.StringIO()):
            VERBS[one.verb](list(one.words))
    except ConfigurationError as error:
        return _told(one, str(error))
    except HangError:
        return Result(one, "hang", f"more than {SECONDS} s")
    except BaseException:
        return Result(one, "traceback", traceback.format_exc())
    return Result(one, "accepted", "") if one.never else Result(one, "success", "")


def _told(one: Broken, text: str) -> Result:
    line = " ".join(text.split())
    if not any(name in text for name in one.names):
        return Result(one, "unnamed", line)
    if not line or printable(line) != line:
        return Result(one, "not one line", text)
    return Result(one, "refused", line)


def tried(seed: int, numbers: Iterable[int]) -> list[Result]:
    """The outcomes of these numbers' configurations."""
    fuzz.world()
    time_limit.SECONDS = SECONDS / 2
    return [outcome(broken(seed, number)) for number in numbers]
