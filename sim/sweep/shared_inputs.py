"""Worlds of one process that share what they have in common.

That is the tokenised records, the weights of the base model, and every figure of these two alone:
the base model's held-out score, perplexities of the records. Runs differ in seed, rank or targets
of the adapter, which is built into modules of its own around the same frozen tensors.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from userdp.sim.config.settings import Data, Lora, Model
from userdp.sim.data.corpus import Corpus
from userdp.sim.run import corpus_loading, inputs
from userdp.sim.run.inputs import Base, World

_NO_LORA = Lora(r=1, alpha=1.0, targets="all-linear")  # a base model is the same under any


@dataclass(frozen=True, kw_only=True, eq=False)
class _Kept:
    """A base model, and what it was loaded for."""

    asked: Hashable
    seed: int
    base: Base


class Worlds:
    """Loads worlds as `world.load` does; one base model is in memory at a time, as it is large.

    That holds as long as nobody else keeps a world: a run lets go of its own when it ends.
    """

    def __init__(self) -> None:
        self._kept: _Kept | None = None
        self._world: tuple[Hashable, World] | None = None  # the last one
        self._corpora: dict[Hashable, Corpus] = {}  # mapped from disk
        self._figures: dict[Hashable, dict[Hashable, Any]] = {}

    def __call__(self, data: Data, asked: Model, seed: int, device: str) -> World:
        key = (data, asked, seed, device)
        if self._world is None or self._world[0] != key:
            self._world = None
            self._world = key, self._load(data, asked, seed, device)
        return self._world[1]

    def free(self) -> None:
        """Let go of the base model and what is built around it; figures and records stay."""
        self._kept = self._world = None
        gc.collect()  # modules refer to each other in circles
        torch.cuda.empty_cache()  # for other processes; does nothing where CUDA was not used

    def _load(self, data: Data, asked: Model, seed: int, device: str) -> World:
        plain = replace(asked, lora=_NO_LORA)

        def base(_: Model, device: str, classes: int | None, seed: int) -> Base:
            found = self._base(plain, device, classes, seed)
            return replace(found, module=around(found.module))

        def corpus(data: Data, tokenizer: Any, seq_len: int) -> Corpus:
            if (data, plain) not in self._corpora:
                self._corpora[data, plain] = corpus_loading.load(data, tokenizer, seq_len)
            return self._corpora[data, plain]

        built = inputs.load(data, asked, seed, device, load_base=base, load_corpus=corpus)
        kept = self._figures.setdefault((data, plain, device, seed if built.drawn else None), {})
        return replace(built, figures=kept)

    def _base(self, plain: Model, device: str, classes: int | None, seed: int) -> Base:
        """Under any seed the same, unless the checkpoint lacks weights, as those of a head."""
        any_length = replace(plain, seq_len=2)  # how much of a text is read is no part of a base
        asked, kept = (any_length, device, classes), self._kept
        if kept and kept.asked == asked and (kept.seed == seed or not kept.base.drawn):
            return kept.base
        del kept
        self.free()  # before the next is there
        loaded = inputs.base(any_length, device, classes, seed)
        self._kept = _Kept(asked=asked, seed=seed, base=loaded)
        return loaded


def around(module: nn.Module) -> nn.Module:
    """A copy of the module and all within it that holds the very same tensors.

    What is built into the copy leaves the module as it was; tensors must never change.
    """
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
