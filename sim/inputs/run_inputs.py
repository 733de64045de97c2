"""Loads the inputs of a run: its users' records, and its base model with an adapter."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from userdp.clients.checkpoints import base_model
from userdp.clients.models import (
    acceleration,
    chunked_loss,
    embedded,
    replica,
)
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.clients.quantization import quantization
from userdp.clients.quantization.quantization import Quantized
from userdp.clients.tokenization.tokenizer import TokenizerEncode
from userdp.clients.training import liger_loss, memory
from userdp.clients.training.memory import EngineSettings
from userdp.sim.common import cache, third_party
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.data import Data
from userdp.sim.config.settings import Model, Settings
from userdp.sim.data import canaries
from userdp.sim.data.canaries import Canaries
from userdp.sim.data.corpus import Corpus
from userdp.sim.inputs import compatibility, corpus_loading, devices, passed_probes, precision

EMBEDDED = "userdp/embedded"
_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True, eq=False)
class Base:
    """A base model as it was loaded, without an adapter."""

    module: Any
    tokenizer: Any
    path: str  # folder or hub name that it was loaded from
    drawn: tuple[str, ...]  # weights that the checkpoint lacks, drawn from the seed
    quantized: Quantized | None = None  # how, where it is
    # Values of adapters around these very tensors, which never change; gone when they are.
    probed: dict[Hashable, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class RunInputs:
    """The records and the model of a run; shared by the nodes of one process."""

    corpus: Corpus
    model: LanguageModel
    base: str  # folder or hub name of the base model
    base_name: str  # its public name, for the model card
    revision: str | None  # commit of a base model of the hub
    drawn: tuple[str, ...]  # weights that the checkpoint lacks, drawn from the seed
    quantized: Quantized | None = None  # how the base model is, where it is
    tokenizer: str = ""  # fingerprint of the whole tokenizer
    text_tokenizer: Any = None  # the tokenizer itself, of transformers
    canaries: Canaries | None = None  # the invented users among the training users
    cache: dict[Hashable, Any] = field(default_factory=dict)  # values of corpus and base alone
    probed: dict[Hashable, Any] = field(default_factory=dict)  # of `Base.probed`

    @property
    def base_is_ours(self) -> bool:
        """Whether the base model was pre-trained here: no other machine has quite the same."""
        return self.base_name == EMBEDDED

    def cached(self, key: Hashable, compute: Callable[[], _Value]) -> _Value:
        """The value under this key, computed by the first call.

        It must not depend on the adapter, since inputs with the same base share one cache.
        """
        if key not in self.cache:
            self.cache[key] = compute()
        value: _Value = self.cache[key]
        return value


def build(settings: Settings) -> RunInputs:
    """The inputs of a run; tokenised records are mapped from the cache if they are there.

    Raises:
        ConfigurationError: a model or data set of the settings is missing or does not fit.
    """
    return load(settings.data, settings.model, settings.seed, settings.device)


def load_base(model: Model, device_name: str, classes: int | None, seed: int) -> Base:
    """The base model without an adapter.

    Args:
        device_name: as `devices.device` takes it.
        classes: number of classes; None for next-token prediction.
        seed: initialises a head that the checkpoint lacks.

    Raises:
        ConfigurationError: the model is missing or did not load.
    """
    device, quantized = devices.device(device_name), None
    path = _model_path(model)
    stored = precision.stored(path, model.revision) if model.dtype == "auto" else None
    dtype = precision.dtype(model.dtype, device, stored)
    if model.quantize is not None:
        quantization.check(model.quantize, dtype)
    # What will be quantised reaches the device layer by layer, and never fills it before.
    first = device if model.quantize is None else torch.device("cpu")
    try:
        module, tokenizer, drawn = base_model.load(
            path, revision=model.revision, dtype=dtype, device=first, classes=classes, seed=seed
        )
        if model.quantize is not None:
            quantized = quantization.quantize(module, model.quantize, drawn, device)
    except ConfigurationError:
        raise
    except Exception as error:  # libraries raise many types for damaged model files
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ConfigurationError(
            f"model.path={path}: did not load: {type(error).__name__}: {reason}"
        ) from None
    return Base(module=module, tokenizer=tokenizer, path=path, drawn=drawn, quantized=quantized)


def load(
    data: Data,
    model: Model,
    seed: int,
    device_name: str,
    *,
    base_loader: Callable[[Model, str, int | None, int], Base] = load_base,
    corpus_loader: Callable[[Data, Any, int], Corpus] = corpus_loading.load,
) -> RunInputs:
    """The inputs that these parts of the settings describe.

    Args:
        seed: initialises the adapter, and a head that the base model lacks. It does not determine
            which users are held out; ``data.seed`` does.
        device_name: as `devices.device` takes it.
        base_loader: loads the base model, into which the adapter is then built.
        corpus_loader: loads the records, tokenised.

    Raises:
        ConfigurationError: as `build`.
    """
    third_party.libraries()
    devices.device(device_name)
    corpus_loading.check(data, model.seq_len)  # before a model is loaded
    classes = None if data.label is None else len(data.class_names)
    base = base_loader(model, device_name, classes, seed)
    compatibility.check_length(model, base.module)
    compatibility.check_tokens(base.module, base.tokenizer)
    compatibility.check_pairs(data, base.module.config, base.tokenizer)
    encode = TokenizerEncode(base.tokenizer)
    planted = canaries.drawn(
        count=data.canaries,
        references=data.canary_references,
        seed=data.seed,
        encode=encode,
        seq_len=model.seq_len,
    )
    corpus = corpus_loader(data, base.tokenizer, model.seq_len)
    names = {"embedded": EMBEDDED, "local": Path(base.path).resolve().name, "hub": base.path}
    return RunInputs(
        model=_adapted(base, _lora(model, seed), classes),
        corpus=canaries.planted(corpus, planted, data.canary_records),
        base=base.path,
        base_name=names[model.kind],
        revision=getattr(base.module.config, "_commit_hash", None),
        drawn=base.drawn,
        quantized=base.quantized,
        tokenizer=encode.name,
        text_tokenizer=base.tokenizer,
        canaries=planted,
        probed=base.probed,
    )


def _adapted(base: Base, lora: LoraSettings, classes: int | None) -> LanguageModel:
    """The base model with an adapter, whose saved configuration names a quantised base.

    Peft has no field for that. In a configuration with a task it reads nothing from
    ``auto_mapping``, its field for facts about the base model.
    """
    model = LanguageModel(base.module, lora, classes, base.drawn)
    if base.quantized is not None:
        model.peft_config.auto_mapping = {"base_model_quantization": base.quantized.kind}
    return model


def fit_engine(
    settings: Settings, model: LanguageModel, probed: dict[Hashable, Any] | None = None
) -> EngineSettings:
    """The sizes of stacks and blocks for this machine; switches the engine's options on.

    With several devices, they hold a copy of the model for each. The first one alone is probed.

    Args:
        model: on the first device of the settings.
        probed: results of the isolation probe of models around the same base tensors, whose device
            and precision are therefore the same, too; takes this one's, and copies of the base
            tensors on further devices. A sweep checks each job and runs it later. None: the model
            is probed in any case.

    Raises:
        ConfigurationError: a configured size is below 1, the loss is not for this model or
            device, the model mixes its users, or CUDA graphs are asked for where none can be.
    """
    engine, probed = settings.engine, {} if probed is None else probed
    others = _replicas(settings, model, probed)
    if others and engine.compile == acceleration.GRAPHS:
        raise ConfigurationError(
            f"device={settings.device}: engine.compile=graphs replays the graphs of one device; "
            "name one, or take engine.compile=true."
        )
    for one in (model, *others):
        acceleration.checkpoint(one.module, engine.checkpointing)
        one.compile(engine.compile)
        one.pack(engine.packed)
        _use_loss(one, engine.loss)
    key = (
        repr(_lora(settings.model, settings.seed)),  # its targets may be a list
        *(model.layout.digest, model.classes, settings.model.seq_len),
        *(engine.checkpointing, engine.compile, engine.packed, engine.loss),
    )
    if key not in probed:
        probed[key] = passed_probes.probe(model, settings.model.seq_len, key)
    fitted = memory.fitted(
        model,
        settings.model.seq_len,
        None if engine.max_tokens == "auto" else engine.max_tokens,
        None if engine.max_lanes == "auto" else engine.max_lanes,
        others,
    )
    # A pass may compile layers, which torch does through variables that all threads share.
    return replace(fitted, turns=threading.Lock()) if others and engine.compile else fitted


def _use_loss(model: LanguageModel, name: str) -> None:
    """Have the model compute its loss so; it may have been used by a job with the other one."""
    if name == "liger":
        liger_loss.use(model)
    elif model.next_token is not None:
        model.next_token.head_loss = chunked_loss.head_loss


def _replicas(
    settings: Settings, model: LanguageModel, probed: dict[Hashable, Any]
) -> list[LanguageModel]:
    """The model on each device of the settings but the first."""
    found = []
    for device in devices.several(settings.device)[1:]:
        moved = probed.setdefault(("tensors", device), {})
        found.append(replica.replica(model, device, moved))
    return found


def _lora(model: Model, seed: int) -> LoraSettings:
    lora = model.lora
    return LoraSettings(
        r=lora.r, alpha=lora.alpha, targets=lora.targets, seed=seed, freeze_a=lora.freeze_a
    )


def _model_path(model: Model) -> str:
    if model.kind == "embedded":
        return str(embedded.ensure(cache.cache_root()))
    if model.path is None:
        raise ConfigurationError(f"model.path is missing: model={model.kind} needs one.")
    if model.kind == "local" and not Path(model.path).is_dir():
        raise ConfigurationError(f"model.path={model.path}: there is no such folder.")
    return model.path
