"""What `userdp bench` measures: its options, the named cases, and the work of each side."""

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

_TOKEN = re.compile(r"\w+|[^\w\s]")  # a word or a mark: near what a tokenizer makes of mail


@dataclass
class Shape:
    """Every field is an override: ``userdp bench users=256 length=32``."""

    users: int = 256
    records: int = 4  # of each user, at most
    length: int = 64  # tokens of each record, at most
    lengths: str | None = None  # JSON lines of real records, whose numbers and lengths are taken
    user: str = "user_id"  # column of lengths
    text: str = "text"  # column of lengths
    family: str = "gpt2"  # or llama
    layers: int = 4
    width: int = 128
    heads: int = 4
    mlp: int | None = None  # null: 4 * width
    vocabulary: int = 4096
    rank: int = 8
    dtype: str = "float32"  # or bfloat16: of the base model
    device: str = "cpu"
    max_tokens: int | None = None  # of a stack of ours, as engine.max_tokens; null: auto
    max_lanes: int | None = None  # of ours, as engine.max_lanes; null: auto
    compile: bool = False  # ours, as engine.compile
    checkpointing: bool = False  # ours, as engine.checkpointing
    batch: int | None = None  # records of a plain or opacus batch; null: the fastest is sought
    repeats: int = 5
    sides: list[str] = field(default_factory=lambda: ["round", "plain"])
    threads: int | None = None  # null: one for each core
    peers: str | None = None  # a Python with pfl, ray and opacus; null: this one
    check: bool = True  # compare the clipped sums before timing
    profile: bool = False  # one more turn, untimed: what takes the time of each side
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


def shape(overrides: Sequence[str]) -> Shape:
    """The case, if one is named, under the other overrides.

    Raises:
        ConfigurationError: an unknown case or option, or a value that cannot be.
    """
    named = [item.partition("=")[2] for item in overrides if item.startswith("case=")]
    rest = [item for item in overrides if not item.startswith("case=")]
    for name in named:
        if name not in CASES:
            raise ConfigurationError(f"bench case={name}: choose one of {', '.join(CASES)}.")
    try:
        merged = OmegaConf.merge(
            OmegaConf.structured(Shape),
            *(CASES[name] for name in named),
            OmegaConf.from_dotlist(_lists(rest)),
        )
        asked = Shape(**OmegaConf.to_container(merged))  # type: ignore[arg-type]
    except OmegaConfBaseException as error:
        raise ConfigurationError(f"bench: {str(error).splitlines()[0]}") from None
    if "mail" in named and asked.lengths is None:
        raise ConfigurationError(
            "bench case=mail: give lengths=FILE.jsonl, one record a line with the columns "
            f"{asked.user} and {asked.text} (user= and text= name others)."
        )
    _check(asked)
    return asked


def spec(asked: Shape, users: int | None = None) -> Spec:
    """The work of every side."""
    names = ("records", "length", "family", "layers", "width", "heads", "mlp", "vocabulary")
    engine = ("max_tokens", "max_lanes", "compile", "checkpointing")
    same = (*names, "rank", "dtype", "device", *engine)
    lengths = None if asked.lengths is None else real_lengths(asked)
    return Spec(
        users=users or asked.users,
        lengths=lengths,
        batch=asked.batch or 32,
        rounds=100 * (asked.repeats + 3),
        **{name: getattr(asked, name) for name in same},
    )


def told(asked: Shape) -> dict[str, Any]:
    """What bears on the figures, without paths of this machine."""
    ways = ("peers", "save", "patience")
    shape_ = {name: value for name, value in asdict(asked).items() if name not in ways}
    return shape_ | {"lengths": asked.lengths and "/".join(Path(asked.lengths).parts[-2:])}


def line(work: Spec, threads: int) -> dict[str, Any]:
    """What a side reads first."""
    return {**asdict(work), "threads": threads}


def real_lengths(asked: Shape) -> list[list[int]]:
    """Tokens of each record of ``users`` users drawn from a file; the first records of each.

    A token is a word or a punctuation mark. Texts of fewer than two have nothing to predict.

    Raises:
        ConfigurationError: no such file or columns, or too few users.
    """
    owned: dict[str, list[int]] = {}
    for user, text in _columns(asked):
        length = min(asked.length, len(_TOKEN.findall(text)))
        if length >= 2:
            owned.setdefault(user, []).append(length)
    if len(owned) < asked.users:
        raise ConfigurationError(
            f"bench users={asked.users}: {asked.lengths} has {len(owned)}; ask for no more."
        )
    chosen = rng.generator(0, "bench users").permutation(len(owned))[: asked.users]
    everyone = list(owned.values())
    return [everyone[number][: asked.records] for number in np.sort(chosen).tolist()]


def _columns(asked: Shape) -> Iterator[tuple[str, str]]:
    try:
        with Path(str(asked.lengths)).open(encoding="utf-8") as lines:
            for row in lines:
                told = json.loads(row)
                yield str(told[asked.user]), str(told[asked.text])
    except OSError as error:
        raise ConfigurationError(f"bench lengths={asked.lengths}: {error.strerror}.") from None
    except (KeyError, TypeError, ValueError):
        raise ConfigurationError(
            f"bench lengths={asked.lengths}: a line has no {asked.user} and {asked.text}; "
            "name the columns with user= and text=."
        ) from None


def _lists(items: Sequence[str]) -> list[str]:
    """``sides=round,plain`` as OmegaConf spells it."""
    return [
        re.sub(r"^(sides|cohorts)=([^\[].*)$", r"\1=[\2]", item) if "=" in item else item
        for item in items
    ]


def _check(asked: Shape) -> None:
    for name in asked.sides:
        if name not in SIDES:
            raise ConfigurationError(f"bench sides={name}: choose among {', '.join(SIDES)}.")
    if len(set(asked.sides)) < len(asked.sides) or not asked.sides:
        raise ConfigurationError("bench sides=: name each side once, and at least one.")
    for name, known in (("family", ("gpt2", "llama")), ("dtype", ("float32", "bfloat16"))):
        if getattr(asked, name) not in known:
            raise ConfigurationError(
                f"bench {name}={getattr(asked, name)}: choose one of {', '.join(known)}."
            )
    least = {"users": 1, "records": 1, "length": 2, "layers": 1, "rank": 1, "repeats": 1}
    for name, bound in {**least, "vocabulary": 2, "threads": 1, "batch": 1}.items():
        value = getattr(asked, name)
        if value is not None and value < bound:
            raise ConfigurationError(f"bench {name}={value}: must be at least {bound}.")
    if asked.width % asked.heads:
        raise ConfigurationError(
            f"bench width={asked.width} heads={asked.heads}: heads must divide width."
        )
