"""Options and named cases of `userdp bench`, and the work that each side gets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from userdp.analysis.benchmark.peers.work import Spec
from userdp.analysis.benchmark.worker import SIDES
from userdp.sim.common import rng
from userdp.sim.common.errors import ConfigurationError

_TOKEN = re.compile(r"\w+|[^\w\s]")  # words and marks: close to the tokens of a real tokenizer
_NOT_RECORDED = ("peers", "save", "patience")  # paths of this machine, and no part of the work


@dataclass
class Options:
    """The options; every field is an override, as in ``userdp bench users=256 length=32``."""

    users: int = 256
    records: int = 4  # of each user, at most
    length: int = 64  # tokens of each record, at most
    lengths: str | None = None  # JSON lines of real records, whose counts and lengths are used
    user: str = "user_id"  # column of that file with the user
    text: str = "text"  # column of that file with the text
    family: str = "gpt2"  # or llama
    layers: int = 4
    width: int = 128
    heads: int = 4
    mlp: int | None = None  # null: 4 * width
    vocabulary: int = 4096
    rank: int = 8
    dtype: str = "float32"  # of the base model; or bfloat16
    device: str = "cpu"
    max_tokens: int | None = None  # engine.max_tokens of our rounds; null: auto
    max_lanes: int | None = None  # engine.max_lanes of our rounds; null: auto
    compile: bool = False  # engine.compile of our rounds
    checkpointing: bool = False  # engine.checkpointing of our rounds
    batch: int | None = None  # records of a plain or opacus batch; null: the fastest
    repeats: int = 5
    sides: list[str] = field(default_factory=lambda: ["round", "plain"])
    threads: int | None = None  # null: one for each core
    peers: str | None = None  # a Python that has pfl, ray and opacus; null: this one
    check: bool = True  # compare the clipped sums before timing
    profile: bool = False  # one more, untimed turn under a profiler
    cohorts: list[int] = field(default_factory=list)  # one round side for each; needs --long
    peak_tflops: float | None = None  # null: from a table of cards
    patience: float = 3600.0  # seconds to wait for one answer
    save: str | None = None  # CSV file that gets a row for each side


_USER_LEVEL = ["round", "plain", "loop", "pfl", "flower_ray"]
_GPU: dict[str, Any] = {"dtype": "bfloat16", "device": "cuda", "length": 256, "records": 4}
CASES: dict[str, dict[str, Any]] = {
    "four_by_64": {"users": 128, "records": 4, "length": 64, "sides": _USER_LEVEL},
    "one_by_32": {"users": 256, "records": 1, "length": 32, "sides": _USER_LEVEL},
    "mail": {"users": 256, "records": 4, "length": 256, "sides": ["round", "plain", "loop"]},
    "records": {"users": 256, "sides": ["record_round", "plain", "opacus"]},
    "gpu_small": _GPU
    | {"users": 256, "layers": 12, "width": 768, "heads": 12, "vocabulary": 50257},
    "gpu_wide": _GPU
    | {"users": 64, "family": "llama", "layers": 16, "width": 2048, "heads": 32, "mlp": 8192}
    | {"vocabulary": 32000},
    "cohorts": {"cohorts": [100, 1000, 10_000, 100_000], "records": 2, "length": 48}
    | {"layers": 1, "sides": ["round"], "check": False, "repeats": 1},
}


def parse(overrides: Sequence[str]) -> Options:
    """The options of a command line: the named case, if any, changed by the other overrides.

    Args:
        overrides: ``name=value`` items.

    Raises:
        ConfigurationError: an unknown case or option, or an invalid value.
    """
    named = [item.partition("=")[2] for item in overrides if item.startswith("case=")]
    rest = [item for item in overrides if not item.startswith("case=")]
    for name in named:
        if name not in CASES:
            raise ConfigurationError(f"bench case={name}: choose one of {', '.join(CASES)}.")
    try:
        merged = OmegaConf.merge(
            OmegaConf.structured(Options),
            *(CASES[name] for name in named),
            OmegaConf.from_dotlist(_lists(rest)),
        )
        options = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigurationError(f"bench: {str(error).splitlines()[0]}") from None
    if not isinstance(options, Options):
        raise ConfigurationError(f"bench {' '.join(overrides)}: expected name=value.")
    if "mail" in named and options.lengths is None:
        raise ConfigurationError(
            "bench case=mail: give lengths=FILE.jsonl, one record a line with the columns "
            f"{options.user} and {options.text} (user= and text= name others)."
        )
    _check(options)
    return options


def spec(options: Options, users: int | None = None) -> Spec:
    """The work that every side gets.

    Args:
        users: instead of the number in the options.

    Raises:
        ConfigurationError: the file of record lengths is missing or does not fit.
    """
    names = ("records", "length", "family", "layers", "width", "heads", "mlp", "vocabulary")
    engine = ("max_tokens", "max_lanes", "compile", "checkpointing")
    copied = (*names, "rank", "dtype", "device", *engine)
    lengths = None if options.lengths is None else real_lengths(options)
    return Spec(
        users=users or options.users,
        lengths=lengths,
        batch=options.batch or 32,
        rounds=100 * (options.repeats + 3),
        **{name: getattr(options, name) for name in copied},
    )


def recorded(options: Options) -> dict[str, Any]:
    """The options that influence the figures, without paths of this machine, for the results."""
    values = {name: v for name, v in asdict(options).items() if name not in _NOT_RECORDED}
    return values | {"lengths": options.lengths and "/".join(Path(options.lengths).parts[-2:])}


def line(work: Spec, threads: int) -> dict[str, Any]:
    """The first line that a side's process reads: its work, and its number of threads."""
    return {**asdict(work), "threads": threads}


def real_lengths(options: Options) -> list[list[int]]:
    """Lengths in tokens of the first records of users drawn at random from a file of real records.

    A token is a word or a punctuation mark. Texts of fewer than two tokens are skipped: they have
    nothing to predict.

    Returns:
        One list for each of ``options.users`` users, of at most ``options.records`` lengths.

    Raises:
        ConfigurationError: no such file or columns, or too few users.
    """
    by_user: dict[str, list[int]] = {}
    for user, text in _columns(options):
        length = min(options.length, len(_TOKEN.findall(text)))
        if length >= 2:
            by_user.setdefault(user, []).append(length)
    if len(by_user) < options.users:
        raise ConfigurationError(
            f"bench users={options.users}: {options.lengths} has {len(by_user)}; ask for no more."
        )
    chosen = rng.generator(0, "bench users").permutation(len(by_user))[: options.users]
    lengths = list(by_user.values())
    return [lengths[number][: options.records] for number in np.sort(chosen).tolist()]


def _columns(options: Options) -> Iterator[tuple[str, str]]:
    """(user, text) of each line of the file."""
    try:
        with Path(str(options.lengths)).open(encoding="utf-8") as lines:
            for row in lines:
                record = json.loads(row)
                yield str(record[options.user]), str(record[options.text])
    except OSError as error:
        raise ConfigurationError(f"bench lengths={options.lengths}: {error.strerror}.") from None
    except (KeyError, TypeError, ValueError):
        raise ConfigurationError(
            f"bench lengths={options.lengths}: a line has no {options.user} and {options.text}; "
            "name the columns with user= and text=."
        ) from None


def _lists(items: Sequence[str]) -> list[str]:
    """``sides=round,plain`` in the spelling of OmegaConf, ``sides=[round,plain]``."""
    return [
        re.sub(r"^(sides|cohorts)=([^\[].*)$", r"\1=[\2]", item) if "=" in item else item
        for item in items
    ]


def _check(options: Options) -> None:
    for name in options.sides:
        if name not in SIDES:
            raise ConfigurationError(f"bench sides={name}: choose among {', '.join(SIDES)}.")
    if len(set(options.sides)) < len(options.sides) or not options.sides:
        raise ConfigurationError("bench sides=: name each side once, and at least one.")
    for name, known in (("family", ("gpt2", "llama")), ("dtype", ("float32", "bfloat16"))):
        if getattr(options, name) not in known:
            raise ConfigurationError(
                f"bench {name}={getattr(options, name)}: choose one of {', '.join(known)}."
            )
    least = {"users": 1, "records": 1, "length": 2, "layers": 1, "rank": 1, "repeats": 1}
    for name, bound in {**least, "vocabulary": 2, "threads": 1, "batch": 1}.items():
        value = getattr(options, name)
        if value is not None and value < bound:
            raise ConfigurationError(f"bench {name}={value}: must be at least {bound}.")
    if options.width % options.heads:
        raise ConfigurationError(
            f"bench width={options.width} heads={options.heads}: heads must divide width."
        )
