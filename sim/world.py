"""The world of a run: its users' records and its base model, from the settings."""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clients import embedded, model, speed
from clients.adapter import LoraSettings
from clients.engine import EngineSettings, fitted
from clients.tokens import TokenizerEncode
from sim import cache, canaries, datasets, form_letters, masking, quiet, synthetic
from sim.canaries import Canaries
from sim.corpus import Corpus
from sim.errors import ConfigurationError
from sim.population import Population
from sim.settings import Data, Model, Settings

EMBEDDED = "userdp/embedded"
_GENERATED = {"synthetic": synthetic.load, "form_letters": form_letters.load}


@dataclass(frozen=True, kw_only=True)
class World:
    """What the nodes of a run share."""

    corpus: Corpus
    model: model.LanguageModel
    base: str  # where the base model was loaded from
    base_name: str  # how the model card names it; becomes public
    revision: str | None
    canaries: Canaries | None = None  # who of the training users is planted


def build(settings: Settings) -> World:
    """Load or make the model, tokenise or map the records.

    Raises:
        ConfigurationError: something asked for is not there or does not fit.
    """
    return load(settings.data, settings.model, settings.seed, settings.device)


def load(data: Data, asked: Model, seed: int, device_name: str) -> World:
    """The world of these parts of the settings; raises as ``build`` does.

    ``seed`` initialises the adapter, and a head that the base model lacks; who is held out is
    decided by ``data.seed``.
    """
    quiet.libraries()
    device = _device(device_name)
    source = _source(data, asked.seq_len)
    path = _model_path(asked)
    classes = None if data.label is None else len(data.class_names)
    base, tokenizer = _base(asked, path, device, classes=classes, seed=seed)
    _check_length(asked, base)
    _check_pairs(data, base.config, tokenizer)
    lora = LoraSettings(
        r=asked.lora.r,
        alpha=asked.lora.alpha,
        targets=asked.lora.targets,
        seed=seed,
        freeze_a=asked.lora.freeze_a,
    )
    encode = TokenizerEncode(tokenizer)
    planted = canaries.drawn(data, encode, asked.seq_len)
    corpus = _corpus(data, source, encode, asked.seq_len)
    names = {"embedded": EMBEDDED, "local": Path(path).resolve().name, "hub": path}
    return World(
        model=model.LanguageModel(base, lora, classes),
        corpus=canaries.planted(corpus, planted, data.canary_records),
        base=path,
        base_name=names[asked.kind],
        revision=getattr(base.config, "_commit_hash", None),
        canaries=planted,
    )


def engine(settings: Settings, here: World) -> EngineSettings:
    """How much this machine computes at a time; switches on what the model was asked to do."""
    asked = settings.engine
    speed.checkpoint(here.model.module, asked.checkpointing)
    if asked.compile:
        speed.compile_layers(here.model.module)
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


def _base(
    asked: Model, path: str, device: torch.device, *, classes: int | None, seed: int
) -> tuple[Any, Any]:
    dtype, revision = _dtype(asked, device), asked.revision
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


def _source(data: Data, seq_len: int) -> datasets.Source | None:
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
    return datasets.Source(
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


def _columns(data: Data) -> datasets.Columns:
    return datasets.Columns(
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
    data: Data, source: datasets.Source | None, encode: TokenizerEncode, seq_len: int
) -> Corpus:
    if source is None:
        generate = _GENERATED[data.format]
        corpus = generate(data.seed, data.users, encode, cache.cache_root())
    else:
        try:
            corpus = datasets.load(source, encode, cache.cache_root())
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


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ConfigurationError(f"device={name}: choose auto, cpu, cuda or cuda:1.")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigurationError(
            f"device={name}: {torch.cuda.device_count()} GPUs are here; choose cpu."
        )
    return device


def _dtype(asked: Model, device: torch.device) -> torch.dtype:
    if asked.dtype == "auto":
        fits = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fits else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[asked.dtype]


def _check_length(asked: Model, base: Any) -> None:
    longest = model.longest_text(base)
    if longest is not None and asked.seq_len > longest:
        raise ConfigurationError(
            f"model.seq_len={asked.seq_len}: this model has {longest} positions; take fewer."
        )


def _check_pairs(data: Data, config: Any, tokenizer: Any) -> None:
    """A record holds token ids alone, not which of two texts each belongs to."""
    if data.text_pair is None or getattr(config, "type_vocab_size", 1) < 2:
        return
    if 1 in tokenizer("a", "b").get("token_type_ids", ()):
        raise ConfigurationError(
            f"data.text_pair={data.text_pair}: this model tells two texts apart by token types, "
            "which are not kept; choose one that does not, as RoBERTa."
        )
