"""Neighbouring files: how far the sums of a run move when one user's lines are not in the file.

In the manner of Re:cord-play (arXiv 2602.17454): the mechanism is run on two neighbouring inputs
with the same coins, and what moves is measured and compared with what the mechanism declares.
`neighbours` empties a user's slot, which leaves every other user at their position. Here the two
populations come from two files through the loader, so every later user has another slot.

What "the same coins" means then. N is declared, and each of the N positions (times k slots) draws
an independent coin of one law, whoever has it. Both runs are therefore compared under the coupling
that gives every user the same coin in both: the coins are drawn for the positions of the larger
file, and in the smaller one the position that falls free, the last one in use, has the coin of the
user who is gone, while every other user takes theirs along. This is a permutation of independent
coins of equal law, so each run has its own distribution, and the joint law is the one that the
proofs of sampled mechanisms use: for every outcome of the others' coins, the removed user's alone
decides between two neighbouring sums. A capped cohort adds one random key for each position that
was drawn, of one law too, and is coupled in the same way.

Where positions decide in public (groups of a matrix factorisation), no coupling is applied: there
the rule itself has to leave the others where they are.

The server's step has rate 0, so that both runs send the same adapter in every round. This fixes the
releases, as the composition theorems do: each round is compared given the same past.
"""

from __future__ import annotations

import copy
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from helpers import tiny, tiny_classes
from userdp.clients.models import acceleration
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.server.mechanisms import sampling
from userdp.sim.data import loading
from userdp.sim.data.loading import CorpusSettings
from userdp.sim.data.population import Population
from userdp.sim.data.records import Columns
from userdp.sim.data.sources.registry import SOURCES

USERS, DECLARED, K, CLIP = 8, 10, 3, 0.02
REMOVED = (0, 3)  # slots of the users who are removed, one in each comparison
CLASSES = tuple("abc")
FAMILIES = {"gpt2": 0, "llama": 1, "qwen2": 2, "gemma2": 3, "opt": 4}
STILL = functools.partial(torch.optim.SGD, lr=0.0)


class Numbers:
    """A tokenizer of texts that are written as token ids: "5 17 3"."""

    name = "numbers"

    def __call__(self, texts: list[str]) -> list[list[int]]:
        return [[int(word) for word in text.split()] for text in texts]

    def labelled(self, records: Any, max_tokens: int) -> list[list[int]]:
        ids = self([record.text for record in records])
        return [[*(~i for i in row), r.label] for row, r in zip(ids, records, strict=True)]


@functools.cache
def rows(labelled: bool) -> tuple[dict[str, str], ...]:
    """The records of all users, lines of different users mixed."""
    units = tiny_classes.units(USERS) if labelled else tiny.ragged_units(USERS)
    made = []
    for turn in range(5):
        for user, unit in enumerate(units):
            for record in unit[turn : turn + 1]:
                ids = ~record[:-1] if labelled else record
                row = {"who": f"user{user}", "said": " ".join(map(str, ids.tolist()))}
                made.append(row | ({"class": CLASSES[record[-1]]} if labelled else {}))
    return tuple(made)


def population(folder: Path, removed: int | None, labelled: bool = False) -> Population:
    """The training population of the file without the lines of one user, by the loader."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "users.jsonl"
    kept = [row for row in rows(labelled) if row["who"] != f"user{removed}"]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept))
    columns = Columns(user="who", text="said")
    if labelled:
        columns = Columns(user="who", text="said", label="class", classes=CLASSES)
    settings = CorpusSettings(
        format="jsonl",
        path=str(path),
        columns=columns,
        holdout=0.0,
        max_tokens=32 if labelled else None,
    )
    return loading.load(SOURCES.find("jsonl"), settings, Numbers(), folder / "cache").train


@functools.cache
def model(family: str, dtype: str, speed: str = "") -> LanguageModel:
    """A tiny model of the family; "classifier" is an encoder with a head of classes.

    Args:
        speed: "compile", "checkpointing", or neither.
    """
    if family == "classifier":
        base, classes = tiny_classes.base_model("roberta"), len(CLASSES)
    else:
        base, classes = tiny.base_model(family), None
    built = LanguageModel(
        base.to(getattr(torch, dtype)), LoraSettings(r=2, alpha=4), classes=classes
    )
    if speed == "compile":
        acceleration.compile_layers(built.module, True, backend="aot_eager")
    acceleration.checkpoint(built.module, speed == "checkpointing")
    return built


@dataclass(frozen=True)
class Moved:
    """A run, the run without one user, and how far the sums of their rounds are apart."""

    whole: tiny.Federation
    without: tiny.Federation
    distances: np.ndarray  # (rounds,) L2
    took_part: np.ndarray  # (rounds,) units of the removed user that were drawn

    @property
    def bits(self) -> float:
        """Largest change of a round's clip bits; 0 where there are none."""
        pairs = zip(self.whole.mechanism.bits, self.without.mechanism.bits, strict=True)
        return max((abs(a - b) for a, b in pairs if a is not None), default=0.0)


def moved(
    folder: Path,
    monkeypatch: Any,
    mechanism: Any,
    removed: int,
    *,
    family: str = "gpt2",
    dtype: str = "float32",
    speed: str = "",
    rounds: int = 2,
    coupled: bool = True,
    seed: int = 0,
    nodes: int = 1,
) -> Moved:
    """Run on the whole file and on the file without a user, and compare.

    Args:
        removed: the user's slot in the whole file.
        coupled: whether every user keeps their coin, as above.
        seed: of the coins.
    """
    labelled = family == "classifier"
    runs, drawn = [], []
    for name, who in (("whole", None), ("without", removed)):
        users = population(folder / name, who, labelled)
        places = np.arange(DECLARED) if who is None else places_without(who)
        with monkeypatch.context() as patch:
            if coupled:
                couple(patch, places, mechanism.group_size)
            run = tiny.federation(
                folder / name,
                copy.deepcopy(mechanism),  # noise rows of correlated noise are a run's own
                users,
                model=model(family, dtype, speed),
                optimizer=STILL,
                replay_seed=seed,
                nodes=nodes,
            )
            run.run(rounds)
        runs.append(run)
        drawn.append(units_by_user(run, users, rounds))
    key = int(population(folder / "whole", None, labelled).user_keys[removed])
    took_part = np.array([units.pop(key, 0) for units in drawn[0]])
    if coupled:
        assert drawn[0] == drawn[1], "the same units of all others take part"
    apart = [
        float(np.linalg.norm(a - b))
        for a, b in zip(runs[0].mechanism.sums, runs[1].mechanism.sums, strict=True)
    ]
    return Moved(*runs, np.array(apart), took_part)


def places_without(removed: int) -> np.ndarray:
    """(DECLARED,) where the holder of each position of the whole file is, without one user."""
    places = np.arange(DECLARED)
    places[removed + 1 : USERS] -= 1
    places[removed] = USERS - 1  # the position that falls free has the coin of the removed user
    return places


def couple(patch: Any, places: np.ndarray, k: int) -> None:
    """Draw coins and keys for the positions of the whole file, and let users take them along."""
    there = (places[:, None] * k + np.arange(k)).ravel()
    back = np.argsort(there)
    heads, subset = sampling.poisson_positions, sampling.random_subset

    def poisson_positions(stream: Any, rate: float, size: int) -> np.ndarray:
        assert size == len(there)
        return np.sort(there[heads(stream, rate, size)])

    def random_subset(stream: Any, positions: np.ndarray, cap: int) -> np.ndarray:
        return np.sort(there[subset(stream, np.sort(back[positions]), cap)])

    patch.setattr(sampling, "poisson_positions", poisson_positions)
    patch.setattr(sampling, "random_subset", random_subset)


def units_by_user(run: tiny.Federation, users: Population, rounds: int) -> list[dict[int, int]]:
    """user key -> units that were asked for, by round; declared positions of nobody are left out.

    Messages to several nodes are added up.
    """
    asked: list[dict[int, int]] = [{} for _ in range(rounds)]
    for message in run.grid.sent:
        counts = asked[int(message.metadata.group_id) - 1]
        for slot in message.content.config_records["assignment"]["users"]:
            if slot < len(users):
                key = int(users.user_keys[slot])
                counts[key] = counts.get(key, 0) + 1
    return asked


def assert_same_control_flow(moved: Moved) -> None:
    """The same contracts to the same nodes, for as many positions; the same ledger entries.

    Which positions they name differs by the shift alone, as `moved` checks by the users' ids. A
    shift may move a user to another node, so positions are counted where there is one node.
    """
    told, lines = [], []
    for run in (moved.whole, moved.without):
        one = len(run.grid.get_node_ids()) == 1
        told.append(
            [
                (
                    m.metadata.dst_node_id,
                    m.metadata.group_id,
                    str(m.content.config_records["contract"]),
                    len(m.content.config_records["assignment"]["users"]) if one else None,
                )
                for m in run.grid.sent
            ]
        )
        lines.append(
            [(e["kind"], e.get("round"), e.get("event"), e.get("queries")) for e in run.entries()]
        )
    assert told[0] == told[1]
    assert lines[0] == lines[1]
