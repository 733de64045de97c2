"""Loads or generates the corpus that the settings of the data describe, and checks it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from userdp.clients.tokenization.tokenizer import TokenizerEncode
from userdp.sim.common import cache
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.data import Data
from userdp.sim.data import loading, masking
from userdp.sim.data.corpus import Corpus
from userdp.sim.data.loading import BadDataError, CorpusSettings
from userdp.sim.data.population import Population
from userdp.sim.data.records import Columns
from userdp.sim.data.sources.base import GeneratedPopulation, Source
from userdp.sim.data.sources.registry import SOURCES


def check(data: Data, seq_len: int) -> None:
    """Check that the source of the settings can be read; reads no record.

    Args:
        seq_len: tokens of the longest sequence.

    Raises:
        ConfigurationError: a setting does not fit the source, or there is no such file.
    """
    source = SOURCES.find(data.format)
    if not isinstance(source, GeneratedPopulation):
        source.check(settings(data, seq_len).request)


def load(data: Data, tokenizer: Any, seq_len: int) -> Corpus:
    """The corpus of the settings, tokenised by ``tokenizer`` (a Transformers tokenizer).

    Args:
        seq_len: tokens of the longest sequence that is trained or scored.

    Raises:
        ConfigurationError: the source is missing or wrong, or no user is left to train on, or no
            held-out record to score.
    """
    encode, folder = TokenizerEncode(tokenizer), cache.cache_root()
    source, lacks = SOURCES.find(data.format), may_lack(data)
    if isinstance(source, GeneratedPopulation):
        corpus = loading.generate(source, data.seed, data.users, encode, folder)
    else:
        try:
            corpus = loading.load(source, settings(data, seq_len), encode, folder, lacks)
        except ConfigurationError:
            raise
        except (FileNotFoundError, BadDataError) as error:
            raise ConfigurationError(f"data.path={data.path}: {error}") from None
        except ValueError as error:  # of a library: its message may quote a record
            raise ConfigurationError(
                f"data.path={data.path}: did not load: {type(error).__name__}."
            ) from None
    if "train" not in lacks and not len(corpus.train):
        raise ConfigurationError("data: no user is left to train on; lower data.holdout.")
    if "heldout" not in lacks and not _scorable(corpus.heldout, seq_len):
        raise ConfigurationError(
            "data.holdout: no record with a token to predict is held out to score; raise "
            "data.holdout, change data.split, or raise model.seq_len if prompts fill it."
        )
    return corpus


def may_lack(data: Data) -> Collection[str]:
    """The sides, of "train" and "heldout", that these data may be without: none, for whole data."""
    return () if (origin := data.origin) is None else origin.may_lack


def settings(data: Data, seq_len: int) -> CorpusSettings:
    """What to read and how to divide it.

    Args:
        seq_len: tokens of the longest sequence that is trained or scored.

    Raises:
        ConfigurationError: a value does not fit the others.
    """
    source = SOURCES.find(data.format)
    columns = _columns(data)
    own = isinstance(source, Source) and source.own_columns
    return CorpusSettings(
        format=data.format,
        path=data.path,
        columns=columns.own() if own else columns,
        split="column" if own else data.split,
        holdout=data.holdout,
        seed=data.seed,
        strict=data.strict,
        name=data.name,
        hub_split=data.hub_split,
        max_tokens=None if data.label is None else seq_len,
        options=data.options,
    )


def _columns(data: Data) -> Columns:
    return Columns(
        user=data.user,
        text=data.text,
        prompt=data.prompt,
        chat=data.chat,
        split=data.split_column,
        pair=data.text_pair,
        label=data.label,
        classes=data.class_names,
    )


def _scorable(population: Population, seq_len: int) -> bool:
    """Whether some record, cut to ``seq_len`` tokens, has a token to predict."""
    return any(
        masking.predicted(record[:seq_len])
        for user in range(len(population))
        for record in population.records(user)
    )
