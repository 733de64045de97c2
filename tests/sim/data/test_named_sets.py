"""Each named data set on a tiny replica of its schema: users and texts as counted by hand."""

from __future__ import annotations

import json
import zipfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import datasets as hf
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.corpora import by_user, texts
from userdp.sim.config import hydra_compose
from userdp.sim.data import loading
from userdp.sim.data.sources.registry import SOURCES
from userdp.sim.inputs import corpus_loading

TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello you"}]
TURN = {"country": "Chile", "hashed_ip": "f00", "toxic": False, "turn_identifier": 1}


class Replica(NamedTuple):
    """Rows of a set, and the (user, what is read, what is learned) of each record, by hand."""

    rows: list[Mapping[str, Any]]
    records: list[tuple[str, str, str]]


REPLICAS = {
    "enron": Replica(
        [
            {"message_id": f"<{n}>", "from": user, "to": ["bo@x"], "cc": [], "subject": "lunch",
             "body": body, "date": "2001-03-05", "file_name": f"lee-a/inbox/{n}."}
            for n, (user, body) in enumerate([("ann@x", "at noon"), ("bo@x", "yes"),
                                              ("ann@x", "good"), (None, "spam"), ("bo@x", "")])
        ],
        [("ann@x", "", "at noon"), ("bo@x", "", "yes"), ("ann@x", "", "good")],
    ),
    "oasst2": Replica(
        [
            {"message_id": "1", "parent_id": None, "user_id": "u1", "text": "why?",
             "role": "prompter", "lang": "en", "synthetic": False, "message_tree_id": "1",
             "emojis": {"name": ["+1"], "count": [2]}},
            {"message_id": "2", "parent_id": "1", "user_id": "u2", "text": "because",
             "role": "assistant", "lang": "en", "synthetic": False, "message_tree_id": "1",
             "emojis": None},
            {"message_id": "3", "parent_id": "2", "user_id": "u1", "text": "ah",
             "role": "prompter", "lang": "en", "synthetic": False, "message_tree_id": "1",
             "emojis": None},
        ],
        [("u1", "", "why?"), ("u2", "", "because"), ("u1", "", "ah")],
    ),
    "aya": Replica(
        # An annotator with many records stays one user.
        [
            {"inputs": f"ask {n}", "targets": f"say {n}", "language": "English",
             "language_code": "eng", "annotation_type": "original-annotations",
             "user_id": "heavy" if n < 40 else "light"}
            for n in range(41)
        ],
        [("heavy" if n < 40 else "light", f"ask {n}", f"say {n}") for n in range(41)],
    ),
    "wildchat": Replica(
        [
            {"conversation_hash": "c1", "model": "gpt", "turn": 1, "hashed_ip": "f00",
             "conversation": [{**m, **TURN} for m in TALK], "toxic": False, "redacted": False},
            {"conversation_hash": "c2", "model": "gpt", "turn": 1, "hashed_ip": "bar",
             "conversation": [{**m, **TURN} for m in TALK[:1]], "toxic": False, "redacted": False},
            {"conversation_hash": "c3", "model": "gpt", "turn": 2, "hashed_ip": "f00",
             "conversation": [{**m, **TURN} for m in TALK * 2], "toxic": False, "redacted": False},
        ],
        [("f00", "hi", "hello you"), ("f00", "hihi", "hello youhello you")],
    ),
    "shakespeare": Replica(
        [{"character_id": who, "x": window, "y": "e"} for who, window in
         [("HAMLET_OPHELIA", "my lord, I"), ("LEAR_FOOL", "nuncle"), ("HAMLET_OPHELIA", "y lord")]],
        [("HAMLET_OPHELIA", "", "my lord, I"), ("LEAR_FOOL", "", "nuncle"),
         ("HAMLET_OPHELIA", "", "y lord")],
    ),
    "stackoverflow": Replica(
        [
            {"Id": 4, "PostTypeId": 1, "ParentId": None, "Title": "How?", "Body": "how do I?",
             "OwnerUserId": 8, "ContentLicense": "CC BY-SA 4.0", "Tags": ["c#"]},
            {"Id": 7, "PostTypeId": 2, "ParentId": 4, "Title": None, "Body": "so",
             "OwnerUserId": 9, "ContentLicense": "CC BY-SA 2.5", "Tags": []},
            {"Id": 9, "PostTypeId": 2, "ParentId": 4, "Title": None, "Body": "deleted",
             "OwnerUserId": None, "ContentLicense": "CC BY-SA 2.5", "Tags": []},
        ],
        [("8", "", "how do I?"), ("9", "", "so")],
    ),
    "cc_news": Replica(
        [{"title": "t", "text": text, "domain": domain, "date": "", "description": "",
          "url": "u", "image_url": ""} for domain, text in
         [("a.com", "rain today"), ("b.org", "sun"), ("a.com", "snow")]],
        [("a.com", "", "rain today"), ("b.org", "", "sun"), ("a.com", "", "snow")],
    ),
    "booksum": Replica(
        [{"bid": bid, "is_aggregate": False, "source": "x", "book_id": f"B.chapter {n}",
          "chapter": chapter, "summary_text": "s"} for n, (bid, chapter) in
         enumerate([(27681, "it was"), (1, "call me"), (27681, "the end")])],
        [("27681", "", "it was"), ("1", "", "call me"), ("27681", "", "the end")],
    ),
    "reddit": Replica(
        [{"author": author, "body": body, "normalizedBody": body, "subreddit": "r",
          "subreddit_id": "t5", "id": "c", "content": body[:2], "summary": body[2:]}
         for author, body in [("ann", "long post, tl;dr short"), ("bo", "post"), ("ann", "more")]],
        [("ann", "", "long post, tl;dr short"), ("bo", "", "post"), ("ann", "", "more")],
    ),
    "fedllm_bench": Replica(
        [{"client": client, "instruction": ask, "response": say}
         for client, ask, say in [("0", "hi", "yo"), ("1", "a", "b"), ("0", "c", "d")]],
        [("0", "hi", "yo"), ("1", "a", "b"), ("0", "c", "d")],
    ),
}  # fmt: skip


class Bytes:
    """A tokenizer with one token per byte; what is only read is in brackets."""

    name = "bytes with brackets"

    def __call__(self, texts: list[str]) -> list[list[int]]:
        return [[*text.encode(), 0] for text in texts]

    def prompted(self, pairs: list[tuple[str, str]]) -> list[list[int]]:
        return self([f"[{prompt}]{text}" for prompt, text in pairs])

    def conversation(self, messages: list[Mapping[str, str]], given: int = 0) -> list[int]:
        said: Mapping[str, list[str]] = defaultdict(list)
        for message in messages:
            said[message["role"]].append(message["content"])
        return self.prompted([("".join(said["user"]), "".join(said["assistant"]))])[0]


def parquet(folder: Path, rows: list[Mapping[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), folder / "train.parquet")
    return folder


def zipped(folder: Path, rows: list[Mapping[str, Any]]) -> Path:
    with zipfile.ZipFile(folder / "corpus.zip", "w") as archive:
        archive.writestr("corpus.json", "".join(json.dumps(row) + "\n" for row in rows))
    return folder / "corpus.zip"


FILES: Mapping[str, Callable[[Path, list[Mapping[str, Any]]], Path]] = {
    "reddit": zipped,
    "fedllm_bench": zipped,
}


ROOT = Path(__file__).parents[3]


def test_every_named_set_has_a_replica():
    names = {path.stem for path in (ROOT / "conf" / "data").glob("*.yaml")}
    assert names - set(SOURCES) == set(REPLICAS)


@pytest.mark.parametrize("name", REPLICAS)
def test_users_and_texts_are_those_counted_by_hand(tmp_path, monkeypatch, name):
    monkeypatch.setattr(hf.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    folder = tmp_path / "data"
    folder.mkdir()
    replica = REPLICAS[name]
    path = FILES.get(name, parquet)(folder, replica.rows)
    words = [f"data={name}", f"data.path={path}", "data.holdout=0.01"]
    data = hydra_compose.settings(words)[0].data
    settings = corpus_loading.settings(data, 16)
    corpus = loading.load(SOURCES.find(data.format), settings, Bytes(), tmp_path)
    bracketed = data.prompt is not None or data.chat is not None
    expected = [
        (user, f"[{read}]{learned}" if bracketed else learned)
        for user, read, learned in replica.records
    ]
    assert {**texts(corpus.train), **texts(corpus.heldout)} == by_user(expected)
    rows = {reason: n for reason, n in corpus.dropped.items() if not reason.startswith("user left")}
    assert sum(rows.values()) == len(replica.rows) - len(replica.records)


@pytest.mark.parametrize("name", REPLICAS)
def test_a_set_says_who_is_the_user_what_is_not_covered_and_where_it_was_never_tried(name):
    told = (ROOT / "conf" / "data" / f"{name}.yaml").read_text()
    assert "a user is" in told or "by client" in told
    for part in ("Never run against", "# Not covered: ", "# Licence: ", "# Pitfalls: "):
        assert told.count(part) == 1
    assert f"| `{name}` |" in (ROOT / "docs" / "data.md").read_text()
