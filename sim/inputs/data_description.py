"""Describes the data of a configuration before a run, as plain values for `userdp data`.

Columns, their types and a guess of the settings are told of the first rows. Every figure of private
data (users, records, tokens, what was dropped, how much of a column is filled) is told under
``track.simulation_only=true`` alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from userdp.sim.common import cache, third_party
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config.data import Data
from userdp.sim.config.settings import Settings
from userdp.sim.data import column_facts, column_guess
from userdp.sim.data.column_facts import ColumnFacts
from userdp.sim.data.column_guess import Guess
from userdp.sim.data.population import Population
from userdp.sim.data.sources.base import GeneratedPopulation, Row
from userdp.sim.data.sources.registry import SOURCES
from userdp.sim.inputs import corpus_loading

SAMPLE = 1000  # rows
_MOST_COLUMNS = 40
_NAME = re.compile(r"[\w .:/-]{1,40}")  # of a column
QUANTILES = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1)


def described(settings: Settings, words: Sequence[str]) -> dict[str, Any]:
    """What there is to say of the settings' data.

    Args:
        words: overrides of the command, of which those about data are repeated.

    Raises:
        ConfigurationError: the data are not there or cannot be read.
    """
    data, private = settings.data, settings.track.simulation_only
    told: dict[str, Any] = {"format": data.format, "path": data.path}
    if data.generated:
        told |= {"generated_users": data.users, "columns": []}
    else:
        corpus_loading.check(data, settings.model.seq_len)
        rows = _sample(settings)
        columns = column_facts.facts(rows)
        shown = _showable(columns)
        told["columns"] = [_column(column, private) for column in columns if shown]
        told["names_hidden"] = not shown
        if not shown:  # then the settings alone may name one
            columns = [column for column in columns if column.name in _configured(data).values()]
        if data.origin is None:
            guess = column_guess.guess(columns, len(rows), _configured(data))
            told |= _guessed(guess)
            data = _with(data, guess)
    told["settings"] = _words(words, settings.data, data)
    told["held_out"] = _held_out(data)
    if private:
        told["simulation_only"] = _figures(dataclasses.replace(settings, data=data))
    return told


def _sample(settings: Settings) -> list[Row]:
    """The first rows, with all columns where the source can list them."""
    data = settings.data
    source = SOURCES.find(data.format)
    request = corpus_loading.settings(data, settings.model.seq_len).request
    if isinstance(source, GeneratedPopulation):
        raise ValueError("Generated populations have no rows.")
    if source.describes_itself:
        request = dataclasses.replace(request, columns={})
    try:
        opened = source.open(request, cache.cache_root())
        return list(itertools.islice(opened.rows(), SAMPLE))
    except ConfigurationError:
        raise
    except ValueError as error:  # of a library: its message may quote a record
        raise ConfigurationError(
            f"data.path={data.path}: did not load: {type(error).__name__}."
        ) from None


def _showable(columns: Sequence[ColumnFacts]) -> bool:
    """Whether all names look like names: where one does not, any may be a value of a record.

    So it is with a csv file without a header, with data of another format, and with an object whose
    keys are users.
    """
    named = all(_NAME.fullmatch(column.name) for column in columns)
    return named and len(columns) <= _MOST_COLUMNS


def _column(column: ColumnFacts, private: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"name": column.name, "types": list(column.types)}
    return {**told, "share_filled": column.filled} if private else told


def _configured(data: Data) -> dict[str, str | None]:
    return {name: getattr(data, name) for name in ("user", "text", "prompt", "chat")}


def _guessed(guess: Guess) -> dict[str, Any]:
    content = {"text": guess.text, "prompt": guess.prompt, "chat": guess.chat}
    named = {name: column for name, column in content.items() if column is not None}
    return {
        "user": {"column": guess.user, "reason": guess.user_reason},
        "records": {"columns": named, "reason": guess.content_reason},
    }


def _with(data: Data, guess: Guess) -> Data:
    """The data with the guessed columns; as they are where no records were found."""
    if guess.text is None and guess.chat is None:
        return data
    return dataclasses.replace(
        data, user=guess.user, text=guess.text, prompt=guess.prompt, chat=guess.chat
    )


def _words(words: Sequence[str], before: Data, after: Data) -> str:
    """A command of a run with these data: the words about data, then what they lack."""
    kept = [word for word in words if re.match(r"\+{0,2}data[.=]", word)]
    changed = {
        name: value
        for name, value in _configured(after).items()
        if value != getattr(before, name) and not (name == "text" and value is None)
    }
    added = [f"data.{name}={'null' if v is None else v}" for name, v in changed.items()]
    names = {word.partition("=")[0] for word in added}
    kept = [word for word in kept if word.partition("=")[0] not in names]
    return shlex.join(["userdp", "run", *kept, *added])


def _held_out(data: Data) -> str:
    if data.generated or data.split == "user":
        share = getattr(SOURCES.find(data.format), "holdout", data.holdout)
        return f"whole users, {share:g} of them"
    if data.split == "record":
        return f"{data.holdout:g} of each user's records but the first"
    return f"the records whose {data.split_column} is test or validation"


def _figures(settings: Settings) -> Mapping[str, Any]:
    """Private figures of the records, as a run would read them."""
    from userdp.sim.inputs import run_inputs  # slow to import

    third_party.libraries()
    model = dataclasses.replace(settings.model, quantize=None)  # its tokenizer is all that is used
    base = run_inputs.load_base(model, "cpu", None, settings.seed)
    corpus = corpus_loading.load(settings.data, base.tokenizer, model.seq_len)
    return {
        "train": _population(corpus.train, model.seq_len),
        "held_out": _population(corpus.heldout, model.seq_len),
        "dropped": dict(corpus.dropped),
    }


def _population(users: Population, seq_len: int) -> dict[str, Any]:
    tokens = np.diff(users.record_offsets)
    return {
        "users": len(users),
        "records": len(tokens),
        "records_per_user": _quantiles(np.diff(users.user_offsets)),
        "tokens_per_record": _quantiles(tokens),
        "share_longer_than_seq_len": float((tokens > seq_len).mean()) if len(tokens) else 0.0,
    }


def _quantiles(values: np.ndarray) -> list[float]:
    """The `QUANTILES` of values (n,); empty where there are none. Each is one of the values."""
    if not len(values):
        return []
    found = np.quantile(values, QUANTILES, method="inverted_cdf")
    return [float(value) for value in found]
