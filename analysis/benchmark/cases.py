"""Options and named cases of `userdp bench`, and the work that each side gets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch

from userdp.analysis.benchmark.peers.work import Spec
from userdp.analysis.benchmark.worker import SIDES
from userdp.clients.quantization import quantization
from userdp.sim.common import rng
from userdp.sim.common.bounds import Between
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import command_options
from userdp.sim.config.field_types import (
    Choice,
    Closed,
    Column,
    Flag,
    Name,
    PathText,
    Positive,
    Whole,
)

_TOKEN = re.compile(r"\w+|[^\w\s]")  # words and marks: close to the tokens of a real tokenizer
_NOT_RECORDED = ("peers", "save", "patience")  # paths of this machine, and no part of the work


@dataclass
class Options(Closed):
    """The options; every field is an override, as in ``userdp bench users=256 length=32``."""

    users: Annotated[Whole, Between(1, 1000000000)] = 256
    records: Annotated[Whole, Between(1, 1000000)] = 4  # of each user, at most
    length: Annotated[Whole, Between(2, 1000000)] = 64  # tokens of each record, at most
    lengths: PathText | None = None  # JSON lines of real records, whose counts and lengths are used
    user: Column = "user_id"  # column of that file with the user
    text: Column = "text"  # column of that file with the text
    family: Choice = "gpt2"  # or llama
    layers: Annotated[Whole, Between(1, 1000)] = 4
    width: Annotated[Whole, Between(1, 1000000)] = 128
    heads: Annotated[Whole, Between(1, 100000)] = 4
    kv_heads: Annotated[Whole, Between(1, 100000)] | None = (
        None  # of keys and values of a llama; null: as many as heads
    )
    mlp: Annotated[Whole, Between(1, 10000000)] | None = None  # null: 4 * width
    vocabulary: Annotated[Whole, Between(2, 100000000)] = 4096
    rank: Annotated[Whole, Between(1, 65536)] = 8
    dtype: Choice = "float32"  # of the base model; or bfloat16
    quantize: Choice | None = None  # its linear layers in fewer bits: int8, fp8 or nf4
    device: Name = "cpu"
    max_tokens: Annotated[Whole, Between(1, 1000000000)] | None = (
        None  # engine.max_tokens of our rounds; null: auto
    )
    max_lanes: Annotated[Whole, Between(1, 1000000)] | None = (
        None  # engine.max_lanes of our rounds; null: auto
    )
    compile: Flag | Literal["graphs"] = False  # engine.compile of our rounds
    checkpointing: Flag = False  # engine.checkpointing of our rounds
    packed: Flag = False  # engine.packed of our rounds
    batch: Annotated[Whole, Between(1, 1000000)] | None = (
        None  # records of a plain or opacus batch; null: the fastest
    )
    repeats: Annotated[Whole, Between(1, 1000000)] = 5
    sides: list[Choice] = field(default_factory=lambda: ["round", "plain"])
    threads: Annotated[Whole, Between(1, 10000)] | None = None  # null: one for each core
    peers: PathText | None = None  # a Python that has pfl, ray and opacus; null: this one
    check: Flag = True  # compare the clipped sums before timing
    profile: Flag = False  # one more, untimed turn under a profiler
    cohorts: list[Annotated[Whole, Between(1, 10**9)]] = field(
        default_factory=list
    )  # one round side for each; needs --long
    peak_tflops: Positive | None = None  # null: from a table of cards
    patience: Positive = 3600.0  # seconds to wait for one answer
    save: PathText | None = None  # CSV file that gets a row for each side


_QUANTIZED = ("round", "record_round", "fused_plain", "plain", "loop")
_USER_LEVEL = ["round", "fused_plain", "plain", "loop", "pfl", "flower_ray"]
_GPU: dict[str, Any] = {"dtype": "bfloat16", "device": "cuda", "length": 256, "records": 4}
CASES: dict[str, dict[str, Any]] = {
    "four_by_64": {"users": 128, "records": 4, "length": 64, "sides": _USER_LEVEL},
    "one_by_32": {"users": 256, "records": 1, "length": 32, "sides": _USER_LEVEL},
    "mail": {
        "users": 256,
        "records": 4,
        "length": 256,
        "sides": ["round", "fused_plain", "plain", "loop"],
    },
    # The shape of SmolLM2-135M, on a CPU that has instructions for bfloat16.
    "small_llm": {"users": 16, "records": 2, "length": 64, "family": "llama", "layers": 30}
    | {"width": 576, "heads": 9, "kv_heads": 3, "mlp": 1536, "vocabulary": 49152}
    | {"dtype": "bfloat16", "sides": ["round", "fused_plain", "plain"], "repeats": 3},
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
            raise ConfigurationError(f"bench case={name}: choose one of {', '.join(CASES)}, gpu.")
    case: dict[str, Any] = {}
    for name in named:
        case |= CASES[name]
    options = valid(case, _lists(rest))
    if "mail" in named and options.lengths is None:
        raise ConfigurationError(
            "bench case=mail: give lengths=FILE.jsonl, one record a line with the columns "
            f"{options.user} and {options.text} (user= and text= name others)."
        )
    return options


def valid(values: Mapping[str, Any], overrides: Sequence[str] = ()) -> Options:
    """Options of these values, changed by overrides.

    Raises:
        ConfigurationError: an unknown option, or an invalid value.
    """
    options = command_options.parsed(Options, overrides, "bench ", dict(values))
    _check(options)
    return options


def spec(options: Options, users: int | None = None) -> Spec:
    """The work that every side gets.

    Args:
        users: instead of the number in the options.

    Raises:
        ConfigurationError: the file of record lengths is missing or does not fit.
    """
    names = ("records", "length", "family", "layers", "width", "heads", "kv_heads", "mlp")
    engine = ("max_tokens", "max_lanes", "compile", "checkpointing", "packed")
    copied = (*names, "vocabulary", "rank", "dtype", "quantize", "device", *engine)
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
    if options.width % options.heads:
        raise ConfigurationError(
            f"bench width={options.width} heads={options.heads}: heads must divide width."
        )
    shared = options.kv_heads
    if shared is not None and (options.family != "llama" or options.heads % shared):
        raise ConfigurationError(
            f"bench kv_heads={shared}: only for family=llama, and it must divide "
            f"heads={options.heads}."
        )
    if options.quantize is not None:
        _check_quantized(options, options.quantize)


def _check_quantized(options: Options, kind: str) -> None:
    if kind not in quantization.KINDS:
        raise ConfigurationError(
            f"bench quantize={kind}: choose one of {', '.join(quantization.KINDS)}."
        )
    if options.family == "gpt2" and not quantization.KINDS[kind].reads_conv1d:
        raise ConfigurationError(
            f"bench quantize={kind}: the layers of family=gpt2 cannot be; take family=llama."
        )
    for side in options.sides:
        if side not in _QUANTIZED:
            raise ConfigurationError(
                f"bench quantize={kind} sides={side}: only {', '.join(_QUANTIZED)} have such a "
                "base model."
            )
    if (reason := not_quantized(kind, options.dtype)) is not None:
        raise ConfigurationError(f"bench quantize={kind}: {reason}")


def not_quantized(kind: str, dtype: str) -> str | None:
    """Why a base model of this precision cannot be quantised here; None: it can."""
    try:
        quantization.check(kind, getattr(torch, dtype))
    except ConfigurationError as error:  # it names settings of a run, whose options are shorter
        return str(error).replace("model.", "").removeprefix(f"quantize={kind}: ")
    return None
