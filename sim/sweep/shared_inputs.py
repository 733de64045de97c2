"""Loads the inputs of many runs in one process so that they share records and base model.

Shared are the tokenised records, the weights of the base model, and all that is computed from these
two alone: the held-out score of the base model and the perplexities of the records. The adapters of
the runs differ in seed, rank or targets; each is built into a copy of the modules that has the same
frozen tensors.
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

_NO_LORA = Lora(r=1, alpha=1.0, targets="all-linear")  # placeholder in keys of base models


@dataclass(frozen=True, kw_only=True, eq=False)
class _Loaded:
    """A base model, with the arguments that it was loaded with."""

    request: Hashable
    seed: int
    base: Base


class SharedInputs:
    """Loads inputs as `run_inputs.load` does, with one base model in memory at a time.

    That is so as long as no caller holds references to inputs; a run drops its own at its end.
    """

    def __init__(self) -> None:
        self._base: _Loaded | None = None
        self._last: tuple[Hashable, RunInputs] | None = None
        self._corpora: dict[Hashable, Corpus] = {}  # mapped from disk
        self._caches: dict[Hashable, dict[Hashable, Any]] = {}

    def load(self, data: Data, model: Model, seed: int, device: str) -> RunInputs:
        """The inputs of these settings.

        Raises:
            ConfigurationError: as `run_inputs.load`.
        """
        key = (data, model, seed, device)
        if self._last is None or self._last[0] != key:
            self._last = None
            self._last = key, self._build(data, model, seed, device)
        return self._last[1]

    def free(self) -> None:
        """Free the base model and the adapters around it; corpora and cached values stay."""
        self._base = self._last = None
        gc.collect()  # modules are in reference cycles
        torch.cuda.empty_cache()  # for other processes; does nothing if CUDA was not used

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
        any_length = replace(model, seq_len=2)  # the base model is the same for all lengths
        request, loaded = (any_length, device, classes), self._base
        if loaded and loaded.request == request and (loaded.seed == seed or not loaded.base.drawn):
            return loaded.base
        del loaded
        self.free()  # before the next one is loaded
        base = run_inputs.load_base(any_length, device, classes, seed)
        self._base = _Loaded(request=request, seed=seed, base=base)
        return base


def copy_around(module: nn.Module) -> nn.Module:
    """A copy of the module and its submodules that shares all parameters and buffers.

    Modules inserted into the copy do not appear in the original; the tensors must never change.
    """
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
