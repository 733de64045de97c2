"""A corpus: a training and a held-out population, streamed to disk and mapped from there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from userdp.sim.data.population import Population
from userdp.sim.data.population_writer import PopulationWriter

FORMAT = 3  # version of the files and of how texts become tokens; part of every cache key
_BATCH, _BATCH_SIZE = 1000, 1 << 20  # records and characters in one call of the tokenizer
Message = Mapping[str, str]  # of a conversation: its ``role`` and its ``content``


class Labelled(NamedTuple):
    """A text to classify, or a pair of texts, and the number of its class."""

    text: str
    pair: str | None
    label: int


class ChatEncode(Protocol):
    """The part of a tokenizer that conversations need."""

    def conversation(self, messages: Sequence[Message], given: int = 0) -> Sequence[int]:
        """Token ids of the messages in the model's chat format; the assistant's are learned.

        Args:
            given: number of messages at the front that are not learned, whoever speaks.

        Raises:
            ConfigurationError: the tokenizer has no usable chat format.
            ValueError: the format refuses these messages; the error quotes nothing of them.
        """
        ...


class Encode(ChatEncode, Protocol):
    """A tokenizer: texts to token ids, signed as in `userdp.sim.data.masking`."""

    @property
    def name(self) -> str:
        """Fingerprint of everything the token ids depend on; part of the cache key."""
        ...

    def __call__(self, texts: list[str]) -> list[Sequence[int]]:
        """Token ids of each text, whole, closed by the end-of-text token if there is one."""
        ...

    def prompted(self, pairs: list[tuple[str, str]]) -> list[Sequence[int]]:
        """Token ids of each (prompt, text): the prompt's, not learned, then the text's, closed."""
        ...

    def labelled(self, records: Sequence[Labelled], max_tokens: int) -> list[Sequence[int]]:
        """Token ids of each record's text or pair, not learned, then its class, learned.

        The text is cut so that a record has at most ``max_tokens`` entries, its class included.
        """
        ...


class Example(NamedTuple):
    """One record, before it is tokenised."""

    user: str
    content: Any  # argument of the tokenizer
    held_out: bool


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The records to train on and the records to score, each grouped by user.

    Args:
        name: fingerprint of source, settings and tokenizer; changes with the contents.
        dropped: reason -> number of rows that are no record. Private: simulation_only.
    """

    name: str
    train: Population
    heldout: Population
    dropped: Mapping[str, int]

    @classmethod
    def load(cls, folder: Path) -> Corpus:
        """Map a folder of ``write`` from disk; its name is the name of the corpus."""
        return cls(
            name=folder.name,
            train=Population.load(folder / "train"),
            heldout=Population.load(folder / "heldout"),
            dropped=json.loads((folder / "dropped.json").read_bytes()),
        )


def write(
    folder: Path,
    examples: Iterable[Example],
    encode: Callable[[list[Any]], list[Sequence[int]]],
    dropped: Mapping[str, int],
) -> None:
    """Tokenise the examples in batches and write both populations into ``folder``.

    Memory grows by some bytes per user, not with the records.

    Args:
        encode: contents of some examples -> their signed token ids.
        dropped: read after the last example, so that the generator of the examples may fill it.
    """
    train, heldout = PopulationWriter(folder / "train"), PopulationWriter(folder / "heldout")
    with closing(train), closing(heldout):
        for batch in _batches(examples):
            records = encode([example.content for example in batch])
            for writer, held_out in ((train, False), (heldout, True)):
                members = [i for i, example in enumerate(batch) if example.held_out == held_out]
                writer.extend([batch[i].user for i in members], [records[i] for i in members])
    (folder / "dropped.json").write_bytes(json.dumps(dict(dropped)).encode())


def _batches(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """The examples in order, in lists that are short where the records are long."""
    batch: list[Example] = []
    size = 0
    for example in examples:
        batch.append(example)
        size += _size(example.content)
        if len(batch) == _BATCH or size >= _BATCH_SIZE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _size(content: Any) -> int:
    """Characters of a text, a pair of texts or a labelled text; tokens of a conversation."""
    if isinstance(content, tuple):
        return sum(len(part) for part in content if isinstance(part, str))
    return len(content)
