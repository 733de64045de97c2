"""Worlds of one process that share what they have in common.

That is the tokenised records, the weights of the base model, and every figure of these two alone:
the base model's held-out score, perplexities of the records. Runs differ in seed, rank or targets
of the adapter, which is built into modules of its own around the same frozen tensors.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

from torch import nn

from sim import world
from sim.corpus import Corpus
from sim.settings import Data, Lora, Model
from sim.world import Base, World

_NO_LORA = Lora(r=1, alpha=1.0, targets="all-linear")  # a base model is the same under any


class Worlds:
    """Loads worlds as `world.load` does; one base model is kept at a time, as it is large."""

    def __init__(self) -> None:
        self._bases = functools.lru_cache(maxsize=1)(world.base)
        self._worlds = functools.lru_cache(maxsize=1)(self._load)
        self._corpora: dict[Hashable, Corpus] = {}  # mapped from disk
        self._figures: dict[Hashable, dict[Hashable, Any]] = {}

    def __call__(self, data: Data, asked: Model, seed: int, device: str) -> World:
        return self._worlds(data, asked, seed, device)

    def _load(self, data: Data, asked: Model, seed: int, device: str) -> World:
        plain = replace(asked, lora=_NO_LORA)

        def base(_: Model, device: str, classes: int | None, seed: int) -> Base:
            found = self._base(plain, device, classes, seed)
            return replace(found, module=around(found.module))

        def corpus(data: Data, tokenizer: Any, seq_len: int) -> Corpus:
            if (data, plain) not in self._corpora:
                self._corpora[data, plain] = world.corpus(data, tokenizer, seq_len)
            return self._corpora[data, plain]

        built = world.load(data, asked, seed, device, load_base=base, load_corpus=corpus)
        kept = self._figures.setdefault((data, plain, device, seed if built.drawn else None), {})
        return replace(built, figures=kept)

    def _base(self, plain: Model, device: str, classes: int | None, seed: int) -> Base:
        """Under any seed the same, unless the checkpoint lacks weights, as those of a head."""
        any_length = replace(plain, seq_len=2)  # how much of a text is read is no part of a base
        found = self._bases(any_length, device, classes, 0 if classes is None else seed)
        return self._bases(any_length, device, classes, seed) if found.drawn else found


def around(module: nn.Module) -> nn.Module:
    """A copy of the module and all within it that holds the very same tensors.

    What is built into the copy leaves the module as it was; tensors must never change.
    """
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
