"""The world of a run: its users' records and its base model, from the settings."""

from __future__ import annotations

import glob
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
from userdp.sim.data import canaries, loading, masking
from userdp.sim.data.canaries import Canaries
from userdp.sim.data.corpus import Corpus
from userdp.sim.data.population import Population
from userdp.sim.data.synthetic import form_letters, users
from userdp.sim.run import compatibility, devices

EMBEDDED = "userdp/embedded"
_Figure = TypeVar("_Figure")
_GENERATED = {"synthetic": users.load, "form_letters": form_letters.load}


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


def corpus(data: Data, tokenizer: Any, seq_len: int) -> Corpus:
    """The records as this tokenizer cuts them; raises as ``build`` does."""
    return _corpus(data, _source(data, seq_len), TokenizerEncode(tokenizer), seq_len)


def load(
    data: Data,
    asked: Model,
    seed: int,
    device_name: str,
    *,
    load_base: Callable[[Model, str, int | None, int], Base] = base,
    load_corpus: Callable[[Data, Any, int], Corpus] = corpus,
) -> World:
    """The world of these parts of the settings; raises as ``build`` does.

    ``seed`` initialises the adapter, and a head that the base model lacks; who is held out is
    decided by ``data.seed``. The base that ``load_base`` gives gets the adapter built in.
    """
    third_party.libraries()
    devices.device(device_name)
    _source(data, asked.seq_len)  # what is wrong with the data is told before a model is loaded
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
    planted = canaries.drawn(data, TokenizerEncode(tokenizer), asked.seq_len)
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


def _source(data: Data, seq_len: int) -> loading.Source | None:
    """Where the records are; None for generated ones. Checked before a model is loaded."""
    if data.format in _GENERATED:
        return None
    if data.path is None:
        raise ConfigurationError(f"data.path is missing: data={data.format} needs one.")
    there = Path(data.path).exists() or glob.glob(data.path, recursive=True)
    if data.format != "hub" and not there:
        raise ConfigurationError(
            f"data.path={data.path}: no such file; give a file, a folder or a glob pattern."
        )
    return loading.Source(
        format=data.format,
        path=data.path,
        columns=_columns(data),
        split=data.split,
        holdout=data.holdout,
        seed=data.seed,
        strict=data.strict,
        name=data.name,
        hub_split=data.hub_split,
        max_tokens=None if data.label is None else seq_len,
    )


def _columns(data: Data) -> loading.Columns:
    return loading.Columns(
        user=data.user,
        text=data.text,
        prompt=data.prompt,
        chat=data.chat,
        split=data.split_column,
        pair=data.text_pair,
        label=data.label,
        classes=data.class_names,
    )


def _corpus(
    data: Data, source: loading.Source | None, encode: TokenizerEncode, seq_len: int
) -> Corpus:
    if source is None:
        generate = _GENERATED[data.format]
        corpus = generate(data.seed, data.users, encode, cache.cache_root())
    else:
        try:
            corpus = loading.load(source, encode, cache.cache_root())
        except ConfigurationError:
            raise
        except ValueError as error:  # bad data under data.strict
            raise ConfigurationError(f"data.path={data.path}: {error}") from None
    if not len(corpus.train):
        raise ConfigurationError("data: no user is left to train on; lower data.holdout.")
    if not _scorable(corpus.heldout, seq_len):
        raise ConfigurationError(
            "data.holdout: no record with a token to predict is held out to score; raise "
            "data.holdout, change data.split, or raise model.seq_len if prompts fill it."
        )
    return corpus


def _scorable(population: Population, seq_len: int) -> bool:
    """Whether some record, cut to ``seq_len``, has a token to predict."""
    return any(
        masking.predicted(record[:seq_len])
        for user in range(len(population))
        for record in population.records(user)
    )
