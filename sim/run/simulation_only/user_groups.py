"""Held-out scores by groups of users: who pays for privacy (Bagdasaryan et al., arXiv 1905.12101).

A clip and noise cost unusual and rarely seen users most. Users are put in order by one trait and
cut into thirds, from the held-out records alone: nothing of a training user takes part. What is
written still says more of few people than one mean does, and with ``data.split=record`` they train
too, so the file is simulation_only.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from userdp.clients.evaluation.heldout import Evaluation, RecordScores
from userdp.sim.data import masking
from userdp.sim.data.population import Population

# Grouping -> names of its thirds, from the lowest trait to the highest.
GROUPS: Mapping[str, tuple[str, str, str]] = {
    "records": ("few", "middle", "many"),
    "length": ("short", "middle", "long"),
    "vocabulary": ("rare", "middle", "common"),
}


def write(path: Path, heldout: Population, by_round: Mapping[int, Evaluation]) -> None:
    """Scores of each group after each of the rounds; round 0 is the base model.

    Columns: round, grouping, group, users, tokens, loss (NLL in nats a token, over all tokens of
    the group), and accuracy where classes are predicted. Users without a scored record are in no
    group; a group without users has no line.
    """
    found = [
        {"round": number, **row}
        for number, scores in by_round.items()
        for row in rows(heldout, scores)
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows(found)


def rows(heldout: Population, scores: Evaluation) -> list[dict[str, Any]]:
    """One evaluation by groups, as ``write`` puts it down."""
    records = scores.records
    if records is None:
        raise ValueError("This evaluation kept no scores of records.")
    users = np.unique(records.users)
    found = []
    for grouping, values in traits(heldout, records).items():
        third = thirds(values)
        for number, name in enumerate(GROUPS[grouping]):
            members = users[third == number]
            if len(members):
                found.append({"grouping": grouping, "group": name, **_scored(records, members)})
    return found


def traits(heldout: Population, records: RecordScores) -> dict[str, np.ndarray]:
    """By grouping, (users with a scored record,) float64 in the order of their slots.

    - records: how many of them were scored;
    - length: mean tokens of a record, stored whole;
    - vocabulary: mean log frequency of the user's tokens in the records of all *other* held-out
      users, each token counted once more than it occurs; high is common. Without the user's own
      records, else a user with many would look common by their own weight.
    """
    users, counts = np.unique(records.users, return_counts=True)
    end = None if records.right is None else -1  # the last token is a class, and not of the text
    texts = [
        masking.tokens(np.concatenate([record[:end] for record in heldout.records(user)]))
        for user in users
    ]
    held = np.diff(heldout.user_offsets)[users]
    return {
        "records": counts.astype(np.float64),
        "length": np.array([len(text) for text in texts]) / held,
        "vocabulary": _commonness(texts),
    }


def _commonness(texts: list[np.ndarray]) -> np.ndarray:
    """(texts,) mean log frequency of a text's tokens in all the others, smoothed by one."""
    everything = np.concatenate(texts)
    counts = np.bincount(everything)
    kinds = np.count_nonzero(counts)
    means = np.empty(len(texts))
    for place, text in enumerate(texts):
        tokens, own = np.unique(text, return_counts=True)
        logs = np.log((counts[tokens] - own + 1) / (len(everything) - len(text) + kinds))
        means[place] = own @ logs / len(text)
    return means


def thirds(values: np.ndarray) -> np.ndarray:
    """(users,) 0, 1 or 2: cut where a third and two thirds of the users lie.

    Equal users stay together, in the lower group, so that groups of a trait with few values
    (records) may differ in size, or be empty.
    """
    cuts = np.quantile(values, [1 / 3, 2 / 3], method="inverted_cdf")
    return np.searchsorted(cuts, values, side="left")


def _scored(records: RecordScores, members: np.ndarray) -> dict[str, Any]:
    own = np.isin(records.users, members)
    tokens = int(records.tokens[own].sum())
    loss = float(records.losses[own].sum()) / tokens
    row = {"users": len(members), "tokens": tokens, "loss": loss}
    return row if records.right is None else {**row, "accuracy": float(records.right[own].mean())}
