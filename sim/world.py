"""The world of a run: its users' records and its base model, from the settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clients import embedded, model
from clients.tokens import TokenizerEncode
from sim import cache, datasets, synthetic
from sim.corpus import Corpus
from sim.errors import ConfigurationError
from sim.settings import Settings

EMBEDDED = "userdp/embedded"


@dataclass(frozen=True, kw_only=True)
class World:
    """What the nodes of a run share."""

    corpus: Corpus
    model: model.LanguageModel
    base: str  # where the base model was loaded from
    base_name: str  # how the model card names it; becomes public
    revision: str | None


def build(settings: Settings) -> World:
    """Load or make the model, tokenise or map the records.

    Raises:
        ConfigurationError: something asked for is not there or does not fit.
    """
    device = _device(settings.device)
    path = _model_path(settings)
    base, tokenizer = model.load(
        path, revision=settings.model.revision, dtype=_dtype(settings, device), device=device
    )
    _check_length(settings, base.config)
    corpus = _corpus(settings, TokenizerEncode(tokenizer))
    if len(corpus.heldout) == 0:
        raise ConfigurationError(
            "data.holdout: no record is held out to score; raise data.holdout or change data.split."
        )
    lora = settings.model.lora
    shape = model.LoraSettings(r=lora.r, alpha=lora.alpha, targets=lora.targets, seed=settings.seed)
    names = {"embedded": EMBEDDED, "local": Path(path).name, "hub": path}
    return World(
        corpus=corpus,
        model=model.LanguageModel(base, shape),
        base=path,
        base_name=names[settings.model.kind],
        revision=getattr(base.config, "_commit_hash", None),
    )


def _model_path(settings: Settings) -> str:
    asked = settings.model
    if asked.kind == "embedded":
        return str(embedded.ensure(cache.cache_root()))
    if asked.path is None:
        raise ConfigurationError(f"model.path is missing: model={asked.kind} needs one.")
    if asked.kind == "local" and not Path(asked.path).is_dir():
        raise ConfigurationError(f"model.path={asked.path}: there is no such folder.")
    return asked.path


def _corpus(settings: Settings, encode: TokenizerEncode) -> Corpus:
    data = settings.data
    if data.format == "synthetic":
        return synthetic.load(settings.seed, data.users, encode, cache.cache_root())
    if data.path is None:
        raise ConfigurationError(f"data.path is missing: data={data.format} needs one.")
    source = datasets.Source(
        format=data.format,
        path=data.path,
        columns=datasets.Columns(user=data.user, text=data.text, split=data.split_column),
        split=data.split,
        holdout=data.holdout,
        seed=settings.seed,
        strict=data.strict,
        name=data.name,
        hub_split=data.hub_split,
    )
    return datasets.load(source, encode, cache.cache_root())


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigurationError(f"device={name}: choose auto, cpu, cuda or cuda:1.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigurationError(
            f"device={name}: {torch.cuda.device_count()} GPUs are here; choose cpu."
        )
    return device


def _dtype(settings: Settings, device: torch.device) -> torch.dtype:
    asked = settings.model.dtype
    if asked == "auto":
        asked = (
            "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
        )
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[asked]


def _check_length(settings: Settings, config: Any) -> None:
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and settings.model.seq_len > longest:
        raise ConfigurationError(
            f"model.seq_len={settings.model.seq_len}: this model has {longest} positions; take fewer."
        )
