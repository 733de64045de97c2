"""The world of a run: its users' records and its base model, from the settings."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from userdp.clients.models import acceleration, embedded
from userdp.clients.models import language_model as model
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.clients.tokenization.tokenizer import TokenizerEncode
from userdp.clients.training.memory import EngineSettings, fitted
from userdp.sim.common import cache, third_party
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.settings import Data, Model, Settings
from userdp.sim.data import canaries
from userdp.sim.data.canaries import Canaries
from userdp.sim.data.corpus import Corpus
from userdp.sim.run import compatibility, corpus_loading, devices

EMBEDDED = "userdp/embedded"
_Figure = TypeVar("_Figure")


@dataclass(frozen=True, kw_only=True, eq=False)
class Base:
    """A base model without an adapter, as it was loaded."""

    module: Any
    tokenizer: Any
    path: str  # where it was loaded from
    drawn: bool  # whether weights that the checkpoint lacks were drawn from the seed


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """What the nodes of a run share."""

    corpus: Corpus
    model: model.LanguageModel
    base: str  # where the base model was loaded from
    base_name: str  # how the model card names it; becomes public
    revision: str | None
    drawn: bool  # whether some weights of the base were drawn from the seed
    canaries: Canaries | None = None  # who of the training users is planted
    figures: dict[Hashable, Any] = field(default_factory=dict)  # of corpus and base alone

    def figure(self, name: Hashable, compute: Callable[[], _Figure]) -> _Figure:
        """What ``compute`` gives, computed by the first who asks for it under this name.

        It must not depend on the adapter's values: worlds of the same base share their figures.
        """
        if name not in self.figures:
            self.figures[name] = compute()
        return self.figures[name]


def build(settings: Settings) -> World:
    """Load or make the model, tokenise or map the records.

    Raises:
        ConfigurationError: something asked for is not there or does not fit.
    """
    return load(settings.data, settings.model, settings.seed, settings.device)


def base(asked: Model, device_name: str, classes: int | None, seed: int) -> Base:
    """The base model, whatever its adapter will be; raises as ``build`` does."""
    path = _model_path(asked)
    module, tokenizer, drawn = _loaded(
        asked, path, devices.device(device_name), classes=classes, seed=seed
    )
    return Base(module=module, tokenizer=tokenizer, path=path, drawn=drawn)


def load(
    data: Data,
    asked: Model,
    seed: int,
    device_name: str,
    *,
    load_base: Callable[[Model, str, int | None, int], Base] = base,
    load_corpus: Callable[[Data, Any, int], Corpus] = corpus_loading.load,
) -> World:
    """The world of these parts of the settings; raises as ``build`` does.

    ``seed`` initialises the adapter, and a head that the base model lacks; who is held out is
    decided by ``data.seed``. The base that ``load_base`` gives gets the adapter built in.
    """
    third_party.libraries()
    devices.device(device_name)
    corpus_loading.check(data, asked.seq_len)  # before a model is loaded
    classes = None if data.label is None else len(data.class_names)
    found = load_base(asked, device_name, classes, seed)
    compatibility.check_length(asked, found.module)
    compatibility.check_pairs(data, found.module.config, found.tokenizer)
    lora = LoraSettings(
        r=asked.lora.r,
        alpha=asked.lora.alpha,
        targets=asked.lora.targets,
        seed=seed,
        freeze_a=asked.lora.freeze_a,
    )
    path, tokenizer = found.path, found.tokenizer
    planted = canaries.drawn(
        count=data.canaries,
        references=data.canary_references,
        seed=data.seed,
        encode=TokenizerEncode(tokenizer),
        seq_len=asked.seq_len,
    )
    records = load_corpus(data, tokenizer, asked.seq_len)
    names = {"embedded": EMBEDDED, "local": Path(path).resolve().name, "hub": path}
    return World(
        model=model.LanguageModel(found.module, lora, classes),
        corpus=canaries.planted(records, planted, data.canary_records),
        base=path,
        base_name=names[asked.kind],
        revision=getattr(found.module.config, "_commit_hash", None),
        drawn=found.drawn,
        canaries=planted,
    )


def engine(settings: Settings, here: World) -> EngineSettings:
    """How much this machine computes at a time; switches on what the model was asked to do."""
    asked = settings.engine
    acceleration.checkpoint(here.model.module, asked.checkpointing)
    acceleration.compile_layers(here.model.module, asked.compile)
    return fitted(
        here.model,
        settings.model.seq_len,
        None if asked.max_tokens == "auto" else asked.max_tokens,
        None if asked.max_lanes == "auto" else asked.max_lanes,
    )


def _model_path(asked: Model) -> str:
    if asked.kind == "embedded":
        return str(embedded.ensure(cache.cache_root()))
    if asked.path is None:
        raise ConfigurationError(f"model.path is missing: model={asked.kind} needs one.")
    if asked.kind == "local" and not Path(asked.path).is_dir():
        raise ConfigurationError(f"model.path={asked.path}: there is no such folder.")
    return asked.path


def _loaded(
    asked: Model, path: str, device: torch.device, *, classes: int | None, seed: int
) -> tuple[Any, Any, bool]:
    dtype, revision = devices.dtype(asked.dtype, device), asked.revision
    try:
        return model.load(
            path, revision=revision, dtype=dtype, device=device, classes=classes, seed=seed
        )
    except ConfigurationError:
        raise
    except Exception as error:  # files of others: whatever is wrong with them is told in one line
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ConfigurationError(
            f"model.path={path}: did not load: {type(error).__name__}: {reason}"
        ) from None
