"""Computes the perplexity of every record under the public base model, once, and caches it on disk.

The cache has one figure for each private record; it is as private as the records, and never logged.
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
    """The population with the perplexities of its records, (records,) mapped from disk.

    The cache key covers ``content``, the configuration and weights of the base model, ``seq_len``
    and the type of device, since another rounding could change a selection.

    Args:
        content: name that changes with the records of the population.
        seq_len: tokens of the longest sequence.
        max_tokens: positions of one forward pass.
        cache_folder: root of the cache.
    """
    parts = (VERSION, content, seq_len, model.base_digest(), model.device.type)

    def build(folder: Path) -> None:
        figures = record_perplexity.scores(
            model, population, seq_len=seq_len, max_tokens=max_tokens, tracked=_progress()
        )
        np.save(folder / "perplexity.npy", figures)

    def read(folder: Path) -> np.ndarray:
        figures: np.ndarray = np.load(folder / "perplexity.npy", mmap_mode="r")
        return figures

    place = cache.place(cache_folder, "perplexity", *parts)
    return replace(population, perplexity=cache.stored(place, build, read))


def _progress() -> Callable[[Sequence[int]], Iterable[int]]:
    """A progress bar on a terminal; elsewhere one line before the start.

    The bar shows a percentage, since the number of records is private; a log gets no bar, since it
    would store how long the private records took.
    """
    title = "Scoring records under the public base model, once"
    if not sys.stderr.isatty():
        print(title, file=sys.stderr, flush=True)
        return iter
    console = rich.console.Console(stderr=True)
    return functools.partial(rich.progress.track, description=title, console=console)
