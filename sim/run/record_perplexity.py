"""Scores of the records under the public base model, computed once and kept on disk.

The cache holds one figure per private record: as private as the records beside it, never logged.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import rich.console
import rich.progress

from userdp.clients.evaluation import record_perplexity
from userdp.clients.models.language_model import LanguageModel
from userdp.sim.common import cache
from userdp.sim.data.population import Population

VERSION = 2  # of the procedure; part of the cache key


def with_perplexity(
    population: Population,
    model: LanguageModel,
    *,
    content: str,
    seq_len: int,
    max_tokens: int,
    cache_folder: Path,
) -> Population:
    """The population with its records' perplexities, mapped from disk.

    The key covers ``content`` (which must change with the population), the base model's
    configuration and weights, ``seq_len`` and the kind of device, whose roundings could otherwise
    turn a selection around.
    """
    key = cache.fingerprint(
        "perplexity", VERSION, content, seq_len, model.base_digest(), model.device.type
    )

    def build(folder: Path) -> None:
        figures = record_perplexity.scores(
            model, population, seq_len=seq_len, max_tokens=max_tokens, tracked=_progress()
        )
        np.save(folder / "perplexity.npy", figures)

    folder = cache.published(cache_folder / "perplexity" / key, build)
    return replace(population, perplexity=np.load(folder / "perplexity.npy", mmap_mode="r"))


def _progress() -> Callable[[Sequence[int]], Iterable[int]]:
    """A bar on a terminal, of shares: how many records there are is nobody's business.

    Elsewhere one line before the start: a file would keep how long all records took.
    """
    told = "Scoring records under the public base model, once"
    if not sys.stderr.isatty():
        print(told, file=sys.stderr, flush=True)
        return iter
    console = rich.console.Console(stderr=True)
    return functools.partial(rich.progress.track, description=told, console=console)
