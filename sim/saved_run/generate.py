"""`userdp generate RUN`: what the adapter writes, beside its base model; or a synthetic data set.

Prompts are public: whoever names one on the command line, in a file or in the run's configuration
declares it so. Texts of an adapter are post-processing of its release.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

from userdp.clients.generation import sample, side_by_side
from userdp.clients.generation.sampling import Sampling
from userdp.sim.common.bounds import Between
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.common.plain_text import shown
from userdp.sim.config import refusal
from userdp.sim.config.field_types import Closed, Flag, PathText, Real, Text, Whole
from userdp.sim.console import samples_table
from userdp.sim.saved_run import data_set, ended_run

_SEEDS = 2**63


@dataclass(frozen=True, kw_only=True)
class Options(Closed):
    """Options of the command, after the run folder."""

    prompt: tuple[Text, ...] = ()
    prompts: PathText | None = None  # a file of them
    count: Annotated[Whole, Between(1, 1_000_000)] | None = None  # texts in all; None: one a prompt
    temperature: Annotated[Real, Between(0, 100)] = 0.8  # 0: the likeliest token
    top_p: Annotated[Real, Between(0, 1, above=True)] = 0.95
    max_tokens: Annotated[Whole, Between(1, 100_000)] = 64
    seed: Annotated[Whole, Between(0, _SEEDS - 1)] | None = None  # None: from the operating system
    chat: Flag = False
    jsonl: PathText | None = None
    base: PathText | None = None


class _Parser(argparse.ArgumentParser):
    """Refuses as every command does, in one line and without the usage."""

    def error(self, message: str) -> NoReturn:
        """Refuse a command line.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(f"generate: {message}")


def main(arguments: Sequence[str]) -> None:
    """Print texts of base and adapter, or write a data set of the adapter's texts.

    Raises:
        ConfigurationError: an option, the run or a prompt is wrong, or the run does not verify and
            a data set was asked for.
    """
    folder, options = parsed(arguments)
    run = ended_run.read(folder, "generate")
    if run.label is not None:
        raise ConfigurationError(
            f"generate: {folder}: data.label={shown(run.label)}: this model classifies texts and "
            "writes none; name another run."
        )
    if options.jsonl is not None:
        ended_run.verified(run.folder, "generate --jsonl")
    prompts = _prompts(options) or list(run.prompts)
    prompts = sample.spread(prompts, options.count or max(1, len(prompts)))
    sampling = Sampling(
        tokens=options.max_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=_seed() if options.seed is None else options.seed,
    )
    adapted, tokenizer = run.load(options.base)
    chat = options.chat or run.chat
    try:
        if options.jsonl is not None:
            texts = side_by_side.texts(adapted, tokenizer, prompts, sampling, chat=chat)
            card = data_set.write(Path(options.jsonl), run, prompts, texts, sampling, chat=chat)
            print(f"{len(texts)} texts: {options.jsonl}\ncard: {card}")
            return
        samples = side_by_side.samples(adapted, tokenizer, prompts, sampling, chat=chat)
    except ConfigurationError as error:
        raise ConfigurationError(f"generate: {str(error).removeprefix('generate: ')}") from None
    samples_table.print_all(samples)
    print(f"seed {sampling.seed}\n{ended_run.told(run.statement)}")


def parsed(arguments: Sequence[str]) -> tuple[Path, Options]:
    """The run folder and the options of a command line.

    Raises:
        ConfigurationError: a word is no option, or a value is wrong.
    """
    parser = _Parser(prog="userdp generate", add_help=False, allow_abbrev=False)
    parser.add_argument("run")
    parser.add_argument("prompt", nargs="*", default=[])
    for name, kind in (("count", int), ("max-tokens", int), ("seed", int)):
        parser.add_argument(f"--{name}", type=kind)
    for name in ("temperature", "top-p"):
        parser.add_argument(f"--{name}", type=float)
    for name in ("prompts", "jsonl", "base"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--chat", action="store_true")
    try:
        words = vars(parser.parse_intermixed_args(list(arguments)))
    except argparse.ArgumentError as error:
        raise ConfigurationError(f"generate: {error}") from None
    folder = Path(words.pop("run"))
    given = {name: value for name, value in words.items() if value is not None}
    options = refusal.checked(Options, {**given, "prompt": tuple(given["prompt"])}, "generate: ")
    return folder, options


def _seed() -> int:
    return int.from_bytes(os.urandom(8), "little") % _SEEDS


def _prompts(options: Options) -> list[str]:
    """Those of the command line, then those of the file."""
    if options.prompts is None:
        return list(options.prompt)
    path = Path(options.prompts)
    try:
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        found = [_of_line(line) for line in lines] if path.suffix == ".jsonl" else lines
        read = refusal.checked(Options, {"prompt": tuple(found)}, f"{path}: ").prompt
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(
            f"generate: --prompts {path}: {type(error).__name__}; give UTF-8 text with a prompt a "
            'line, or in a .jsonl file {"prompt": ...}.'
        ) from None
    if not read:
        raise ConfigurationError(f"generate: --prompts {path}: it holds no prompt.")
    return [*options.prompt, *read]


def _of_line(line: str) -> Any:
    return json.loads(line)["prompt"]
