"""A base model of a few thousand weights and a file of records: whole runs in seconds."""

from __future__ import annotations

import atexit
import functools
import json
import random
import shutil
import tempfile
from pathlib import Path

from userdp.clients.models import embedded
from userdp.sim.common import third_party

MARKER_USER, MARKER_TEXT = "marker-user-7731", "quizzaciously"
_RECIPE = embedded.Recipe(
    tales=20, vocabulary=300, layers=1, width=16, heads=2, context=32, steps=3, batch=2
)
_WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "saw",
    "my",
    "dog",
    "run",
    "to",
    "old",
    "town",
]


@functools.cache
def folder() -> Path:
    """One for the process; holds the cache, ``mail.jsonl`` and a second model."""
    root = Path(tempfile.mkdtemp(prefix="userdp-test-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    (root / "mail.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return root


@functools.cache
def model() -> Path:
    third_party.libraries()
    return embedded.ensure(folder() / "models", quiet=True, recipe=_RECIPE)


def rows() -> list[dict[str, str]]:
    """Records of 30 users, 1 to 5 each; one user and one text can be recognised."""
    chance = random.Random(0)
    made = [
        {"user_id": f"sender-{user:03d}", "text": " ".join(chance.choices(_WORDS, k=12))}
        for user in range(30)
        for _ in range(1 + user % 5)
    ]
    marked = {"user_id": MARKER_USER, "text": f"the {MARKER_TEXT} cat sat on {MARKER_TEXT} mats"}
    return [*made, *[marked] * 4]


def overrides(*more: str) -> list[str]:
    """A run on this world in a second or two; later overrides win."""
    return [
        "data=jsonl",
        f"data.path={folder() / 'mail.jsonl'}",
        "data.holdout=0.3",
        "model=local",
        f"model.path={model()}",
        "model.seq_len=16",
        "model.lora.r=2",
        "strategy.records_per_user=2",
        "cohort=6",
        "rounds=2",
        "device=cpu",
        *more,
    ]
