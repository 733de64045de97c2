"""`userdp shard`: cuts a population into a folder for each node, and one for the server.

The data are read as a run reads them, so users, their order and who is held out are those of the
undivided data. The user at slot s of the N training users goes to node s modulo n, with all records
to train on; every held-out record goes to the server. Texts are written, not tokens: each node
tokenises with its own model's tokenizer.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from userdp.clients.tokenization.tokenizer import TokenizerEncode
from userdp.sim.common import cache, durable_file, third_party
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import command_options, hydra_compose
from userdp.sim.config.data import Data, Described
from userdp.sim.config.settings import Settings
from userdp.sim.data import loading
from userdp.sim.data.corpus import ChatEncode, Example, Labelled, Message
from userdp.sim.data.loading import BadDataError, CorpusSettings
from userdp.sim.data.sources.base import GeneratedPopulation
from userdp.sim.data.sources.registry import SOURCES
from userdp.sim.data.sources.shard import DESCRIPTION, RECORDS, Shard
from userdp.sim.federation import shard_check, words
from userdp.sim.federation.shard_check import Tally
from userdp.sim.inputs import corpus_loading, run_inputs

_MOST_NODES = 100_000
_FULL = 1 << 16  # bytes of a file that are kept before they are written
# Of the command's words, those that name data, folders and the runtime are no node's business.
_NOT_OF_NODES = ("data", "runtime", "output", "resume", "sweep", "track")


@dataclass(frozen=True, kw_only=True)
class ShardOptions:
    """Options of `userdp shard`."""

    nodes: int = 4
    output: str | None = None


def main(arguments: Sequence[str]) -> None:
    """Cut the data of a configuration into shards, and check them.

    Args:
        arguments: options of `ShardOptions`, and overrides of the configuration.

    Raises:
        ConfigurationError: an option or the configuration is wrong, or the data cannot be read.
    """
    names = [item.name for item in dataclasses.fields(ShardOptions)]
    given, overrides = words.split(arguments, names)
    options = command_options.parsed(ShardOptions, given, "shard: ")
    if options.output is None:
        raise ConfigurationError("shard: give output=FOLDER, a new folder for the shards.")
    if not 1 <= options.nodes <= _MOST_NODES:
        raise ConfigurationError(f"shard: nodes={options.nodes}: should be 1 to {_MOST_NODES:,}.")
    settings, _ = hydra_compose.settings(overrides)
    folder = Path(options.output)
    users = cut(settings, options.nodes, folder, _words_of_nodes(settings, overrides))
    # How many users there are is private, unless they are invented.
    count = f"{users} users, " if settings.data.generated else ""
    print(f"userdp: {count}{options.nodes} shards and the server's folder in {folder}")
    print("userdp: checked: every user is on exactly one node, with all records")


def cut(settings: Settings, nodes: int, folder: Path, of_nodes: Sequence[str] = ()) -> int:
    """Write the shards of the settings' data into a new folder; returns the training users.

    Memory grows by some bytes for each user, not with the records.

    Args:
        folder: ``node-0`` to ``node-<nodes - 1>`` and ``server`` are made in it.
        of_nodes: overrides that each shard keeps for the node that reads it.

    Raises:
        ConfigurationError: the folder holds files, the data are wrong or are a shard already, or
            canaries are asked for; or what was written is not what was read.
    """
    data = settings.data
    _check(data, folder)
    cutter = _Cutter(folder, nodes, data.class_names)
    try:
        for example in _examples(settings):
            cutter.add(example)
    except BadDataError as error:
        raise ConfigurationError(f"data.path={data.path}: {error}") from None
    cutter.close()
    users = len(cutter.slots)
    if not users:
        raise ConfigurationError("data: no user is left to train on; lower data.holdout.")
    if data.generated and not any(word.startswith("privacy.users=") for word in of_nodes):
        of_nodes = [*of_nodes, f"privacy.users={users}"]
    described = {item.name: getattr(data, item.name) for item in dataclasses.fields(Described)}
    cut_id = os.urandom(16).hex()
    for part in (*range(nodes), None):
        shard = Shard(
            cut=cut_id,
            part=part,
            parts=nodes,
            data_format=data.format,
            data=described,
            words=tuple(of_nodes),
        )
        durable_file.replace(_place(folder, part) / DESCRIPTION, shard.json(), mode=0o600)
    durable_file.sync_tree(folder)
    shard_check.check(
        folder, [_place(folder, part) for part in (*range(nodes), None)], cutter.tally
    )
    return users


def _check(data: Data, folder: Path) -> None:
    if data.canaries:
        raise ConfigurationError(
            f"data.canaries={data.canaries}: a run plants canaries among the records of its own "
            "process; leave them out of shards."
        )
    if data.origin is not None:
        raise ConfigurationError(f"data.path={data.path}: is a shard already; cut whole data.")
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigurationError(f"output={folder}: holds files; choose a new folder.")
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"output={folder}: is a file; choose a new folder.")


def _words_of_nodes(settings: Settings, overrides: Sequence[str]) -> list[str]:
    """The overrides that hold on a node, with paths that hold in every folder."""
    kept = []
    for word in overrides:
        name = word.partition("=")[0]
        group = name.lstrip("+~").partition(".")[0].partition("@")[0]
        if group in _NOT_OF_NODES:
            continue
        path = settings.model.path
        if name == "model.path" and path is not None and Path(path).exists():
            word = words.override(name, str(Path(path).absolute()))
        kept.append(word)
    return kept


def _place(folder: Path, part: int | None) -> Path:
    return folder / ("server" if part is None else f"node-{part}")


def _examples(settings: Settings) -> Iterator[Example]:
    """The records of the settings' data in order, with their side, as a run reads them."""
    data = settings.data
    source = SOURCES.find(data.format)
    if isinstance(source, GeneratedPopulation):
        yield from loading.generated(source, data.seed, data.users)
        return
    read: CorpusSettings = corpus_loading.settings(data, settings.model.seq_len)
    source.check(read.request)
    opened = source.open(read.request, cache.cache_root())
    yield from loading.examples(read, opened.rows(), _encode(settings), Counter())


def _encode(settings: Settings) -> ChatEncode | None:
    """What decides whether a conversation is a record; texts are records by themselves."""
    if settings.data.chat is None:
        return None
    third_party.libraries()
    model = dataclasses.replace(settings.model, quantize=None)  # its tokenizer is all that is used
    base = run_inputs.load_base(model, "cpu", None, settings.seed)
    return _Conversations(base.tokenizer)


class _Conversation(list[int]):
    """Token ids of a conversation, and the messages that they were made of.

    Args:
        given: number of messages at the front that are a prompt.
    """

    def __init__(self, tokens: Sequence[int], messages: Sequence[Message], given: int) -> None:
        super().__init__(tokens)
        self.messages, self.given = messages, given


class _Conversations(TokenizerEncode):
    """A tokenizer that keeps the messages."""

    def conversation(self, messages: Sequence[Message], given: int = 0) -> Sequence[int]:
        """As the tokenizer, with the messages beside the token ids."""
        return _Conversation(super().conversation(messages, given), messages, given)


@dataclass
class _Cutter:
    """Appends records to the files of the parts, some thousand bytes at a time."""

    folder: Path
    nodes: int
    classes: Sequence[str]
    slots: dict[str, int] = field(default_factory=dict)  # of the training users
    tally: Tally = field(default_factory=Tally)
    _waiting: dict[int | None, bytearray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in (*range(self.nodes), None):
            _place(self.folder, part).mkdir(mode=0o700, parents=True, exist_ok=True)
            self._append(part, b"")

    def add(self, example: Example) -> None:
        """Write a record where its user belongs."""
        part = None
        if not example.held_out:
            slot = self.slots.setdefault(example.user, len(self.slots))
            part = slot % self.nodes
        row = {"user": example.user, "split": "test" if example.held_out else "train"}
        row |= _columns(example.content, self.classes)
        self.tally.add(part, row)
        waiting = self._waiting.setdefault(part, bytearray())
        waiting += json.dumps(row).encode() + b"\n"
        if len(waiting) > _FULL:
            self._append(part, waiting)
            waiting.clear()

    def close(self) -> None:
        """Write what is left."""
        for part, waiting in self._waiting.items():
            self._append(part, waiting)
        self._waiting.clear()

    def _append(self, part: int | None, content: bytes | bytearray) -> None:
        path = _place(self.folder, part) / RECORDS
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with durable_file.naming(path), os.fdopen(descriptor, "wb", buffering=0) as file:
            durable_file.write_all(file, bytes(content))


def _columns(content: Any, classes: Sequence[str]) -> Mapping[str, Any]:
    """The columns of a record's content, under the names of `Columns.own`."""
    if isinstance(content, Labelled):
        pair = {} if content.pair is None else {"pair": content.pair}
        return {"text": content.text, "label": classes[content.label], **pair}
    if isinstance(content, _Conversation):
        messages = [dict(message) for message in content.messages]
        prompt = {"prompt": messages[: content.given]} if content.given else {}
        return {"chat": messages[content.given :], **prompt}
    if isinstance(content, tuple):
        prompt, text = content
        return {"prompt": prompt, "text": text}
    return {"text": content}
