"""A training and a held-out population, written to disk record by record and mapped from there."""

from __future__ import annotations

import itertools
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np

from sim import population
from sim.population import Population

FORMAT = 2  # of the files below; part of every cache key
_BATCH = 1000  # texts in one call of the tokenizer
Message = Mapping[str, str]  # of a conversation: its ``role`` and its ``content``


class Labelled(NamedTuple):
    """A text to classify, or two texts that belong together, and the number of its class."""

    text: str
    pair: str | None
    label: int


class Encode(Protocol):
    """A tokenizer: texts in, token ids out, signed as in `sim.masking`."""

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

    ``name`` tells its contents: source, settings and tokenizer. ``dropped`` counts bad data by
    reason; it depends on private records: simulation_only.
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
    grows by some bytes a record and a user, never by the text. ``dropped`` is read after the
    last example, so the generator of the examples may fill it.
    """
    with closing(_Shelf(folder / "train")) as train, closing(_Shelf(folder / "heldout")) as heldout:
        for batch in _batches(examples):
            for example, ids in zip(batch, encode([e.content for e in batch]), strict=True):
                (heldout if example.held_out else train).append(example.user, ids)
    (folder / "dropped.json").write_text(json.dumps(dict(dropped)))


def _batches(examples: Iterable[Example]) -> Iterator[list[Example]]:
    remaining = iter(examples)
    while batch := list(itertools.islice(remaining, _BATCH)):
        yield batch


class _Shelf:
    """Grows one population on disk: tokens go to a file, lengths and owners stay in memory."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._tokens = (folder / "tokens.npy").open("wb")
        _write_header(self._tokens, 0)
        self._lengths, self._owners = array("q"), array("q")  # int64, one a record
        self._slots: dict[str, int] = {}

    def append(self, user: str, ids: Sequence[int]) -> None:
        self._tokens.write(np.asarray(ids, "<i4").tobytes())
        self._lengths.append(len(ids))
        self._owners.append(self._slots.setdefault(user, len(self._slots)))

    def close(self) -> None:
        """Write what was in memory, and the true length into the header of the tokens."""
        lengths, owners = np.array(self._lengths, np.int64), np.array(self._owners, np.int64)
        self._tokens.seek(0)
        _write_header(self._tokens, int(lengths.sum()))
        self._tokens.close()
        arrays = {
            "record_offsets": population.offsets(lengths),
            "user_records": np.argsort(owners, kind="stable"),
            "user_offsets": population.offsets(np.bincount(owners, minlength=len(self._slots))),
            "user_keys": np.fromiter(
                map(population.user_key, self._slots), np.uint64, len(self._slots)
            ),
        }
        for name, values in arrays.items():
            np.save(self._folder / f"{name}.npy", values)


def _write_header(file: BinaryIO, length: int) -> None:
    """NumPy pads the header for growth, so it can be rewritten in place with another length."""
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<i4", "fortran_order": False, "shape": (length,)}
    )
