"""Loads or generates the corpus described by the settings of the data, and checks it."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

from userdp.clients.tokenization.tokenizer import TokenizerEncode
from userdp.sim.common import cache
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.data import Data
from userdp.sim.data import loading, masking
from userdp.sim.data.corpus import Corpus
from userdp.sim.data.population import Population
from userdp.sim.data.synthetic import form_letters, users

_GENERATED = {"synthetic": users.load, "form_letters": form_letters.load}


def check(data: Data, seq_len: int) -> None:
    """Refuse settings whose source cannot be read; reads no record.

    Raises:
        ConfigurationError: a setting does not fit the source, or there is no such file.
    """
    _source(data, seq_len)


def load(data: Data, tokenizer: Any, seq_len: int) -> Corpus:
    """The corpus of the settings, tokenised by ``tokenizer`` (a Transformers tokenizer).

    Args:
        seq_len: tokens of the longest sequence that is trained or scored.

    Raises:
        ConfigurationError: the source is missing or wrong, or no user is left to train on, or no
            held-out record to score.
    """
    return _corpus(data, _source(data, seq_len), TokenizerEncode(tokenizer), seq_len)


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
