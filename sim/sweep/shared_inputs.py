"""Inputs of the runs of one process, which share records, base model and what is computed of them.

Shared are the tokenised records, the weights of the base model, and every value of these two alone:
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

from userdp.sim.config.data import Data
from userdp.sim.config.settings import Lora, Model
from userdp.sim.data.corpus import Corpus
from userdp.sim.inputs import corpus_loading, run_inputs
from userdp.sim.inputs.run_inputs import Base, RunInputs

_NO_LORA = Lora(r=1, alpha=1.0, targets="all-linear")  # a base model is the same under any


@dataclass(frozen=True, kw_only=True, eq=False)
class _Loaded:
    """A base model, and the request that it was loaded for."""

    request: Hashable
    seed: int
    base: Base


class SharedInputs:
    """Loads inputs as `run_inputs.load` does; one base model is in memory at a time, as it is large.

    That holds as long as no caller keeps inputs: a run lets go of its own when it ends.
    """

    def __init__(self) -> None:
        self._base: _Loaded | None = None
        self._last: tuple[Hashable, RunInputs] | None = None
        self._corpora: dict[Hashable, Corpus] = {}  # mapped from disk
        self._caches: dict[Hashable, dict[Hashable, Any]] = {}

    def load(self, data: Data, model: Model, seed: int, device: str) -> RunInputs:
        """The inputs of these settings; raises as `run_inputs.load` does."""
        key = (data, model, seed, device)
        if self._last is None or self._last[0] != key:
            self._last = None
            self._last = key, self._build(data, model, seed, device)
        return self._last[1]

    def free(self) -> None:
        """Let go of the base model and what is built around it; corpora and values stay."""
        self._base = self._last = None
        gc.collect()  # modules refer to each other in circles
        torch.cuda.empty_cache()  # for other processes; does nothing where CUDA was not used

    def _build(self, data: Data, model: Model, seed: int, device: str) -> RunInputs:
        without_lora = replace(model, lora=_NO_LORA)

        def base_loader(_: Model, device: str, classes: int | None, seed: int) -> Base:
            base = self._load_base(without_lora, device, classes, seed)
            return replace(base, module=copy_around(base.module))

        def corpus_loader(data: Data, tokenizer: Any, seq_len: int) -> Corpus:
            key = (data, without_lora)
            if key not in self._corpora:
                self._corpora[key] = corpus_loading.load(data, tokenizer, seq_len)
            return self._corpora[key]

        built = run_inputs.load(
            data, model, seed, device, base_loader=base_loader, corpus_loader=corpus_loader
        )
        drawn_from = seed if built.drawn else None
        cache = self._caches.setdefault((data, without_lora, device, drawn_from), {})
        return replace(built, cache=cache)

    def _load_base(self, model: Model, device: str, classes: int | None, seed: int) -> Base:
        """The same for every seed, unless the checkpoint lacks weights, as those of a head."""
        any_length = replace(model, seq_len=2)  # a base model does not depend on the text length
        request, loaded = (any_length, device, classes), self._base
        if loaded and loaded.request == request and (loaded.seed == seed or not loaded.base.drawn):
            return loaded.base
        del loaded
        self.free()  # before the next is loaded
        base = run_inputs.load_base(any_length, device, classes, seed)
        self._base = _Loaded(request=request, seed=seed, base=base)
        return base


def copy_around(module: nn.Module) -> nn.Module:
    """A copy of the module and all within it that holds the very same tensors.

    What is built into the copy leaves the module as it was; tensors must never change.
    """
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
