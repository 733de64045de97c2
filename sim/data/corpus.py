"""A training and a held-out population, written to disk record by record and mapped from there."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from userdp.sim.data.population import Population
from userdp.sim.data.population_writer import Shelf

FORMAT = 2  # of the files below, and of how texts become them; part of every cache key and name
_BATCH = 1000  # texts in one call of the tokenizer
Message = Mapping[str, str]  # of a conversation: its ``role`` and its ``content``


class Labelled(NamedTuple):
    """A text to classify, or two texts that belong together, and the number of its class."""

    text: str
    pair: str | None
    label: int


class Encode(Protocol):
    """A tokenizer: texts in, token ids out, signed as in `userdp.sim.data.masking`."""

    @property
    def name(self) -> str:
        """Fingerprint of everything the token ids depend on; part of the cache key."""
        ...

    def __call__(self, texts: list[str]) -> list[list[int]]:
        """Each text whole, closed by the end-of-text token if any."""
        ...

    def prompted(self, pairs: list[tuple[str, str]]) -> list[list[int]]:
        """Each (prompt, text): the prompt's tokens given, then the text's, closed."""
        ...

    def labelled(self, records: Sequence[Labelled], max_tokens: int) -> list[list[int]]:
        """Each record's text or texts as they are classified, all given, then its class, learned.

        The text is cut, so that it and the class are at most ``max_tokens``.
        """
        ...

    def conversation(self, messages: Sequence[Message]) -> list[int]:
        """The messages in the chat format of the model; what the assistant says is learned.

        Raises:
            ConfigurationError: the tokenizer has no usable chat format.
            ValueError: the format refuses these messages; quotes nothing of them.
        """
        ...


class Example(NamedTuple):
    """One record on its way to disk."""

    user: str
    content: Any  # what the tokenizer is called with
    held_out: bool


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The records to train on and the records to score, each grouped by user.

    ``name`` changes with the contents: it stands for source, settings and tokenizer. ``dropped``
    counts bad data by reason; it depends on private records: simulation_only.
    """

    name: str
    train: Population
    heldout: Population
    dropped: Mapping[str, int]

    @classmethod
    def load(cls, folder: Path) -> Corpus:
        """Map what ``write`` wrote; the folder is called by the corpus's cache key."""
        return cls(
            name=folder.name,
            train=Population.load(folder / "train"),
            heldout=Population.load(folder / "heldout"),
            dropped=json.loads((folder / "dropped.json").read_text()),
        )


def write(
    folder: Path,
    examples: Iterable[Example],
    encode: Callable[[list[Any]], list[list[int]]],
    dropped: Mapping[str, int],
) -> None:
    """Tokenise the examples in batches and write both populations into ``folder``.

    ``encode`` takes the contents of some examples and returns their signed token ids. Memory
    grows by some bytes a user, never by the records. ``dropped`` is read after the
    last example, so the generator of the examples may fill it.
    """
    with closing(Shelf(folder / "train")) as train, closing(Shelf(folder / "heldout")) as heldout:
        for batch in _batches(examples):
            records = encode([example.content for example in batch])
            for shelf, wanted in ((train, False), (heldout, True)):
                here = [i for i, example in enumerate(batch) if example.held_out == wanted]
                shelf.extend([batch[i].user for i in here], [records[i] for i in here])
    (folder / "dropped.json").write_text(json.dumps(dict(dropped)))


def _batches(examples: Iterable[Example]) -> Iterator[list[Example]]:
    remaining = iter(examples)
    while batch := list(itertools.islice(remaining, _BATCH)):
        yield batch
