"""Scores held-out users by groups, to show whom privacy costs most.

Clipping and noise cost unusual users, who are few, most accuracy (Bagdasaryan et al., arXiv
1905.12101). Users are sorted by one trait and cut into thirds, using held-out records alone and
nothing of a training user. Yet the score of a group says more about its few members than the
overall score does, and with ``data.split=record`` they are trained on: the file is simulation_only.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from userdp.clients.evaluation.heldout import Evaluation, RecordScores
from userdp.sim.common import durable_file
from userdp.sim.data import masking
from userdp.sim.data.population import Population

# Grouping -> names of its thirds, from the lowest trait to the highest.
GROUPS: Mapping[str, tuple[str, str, str]] = {
    "records": ("few", "middle", "many"),
    "length": ("short", "middle", "long"),
    "vocabulary": ("rare", "middle", "common"),
}


def write(path: Path, heldout: Population, by_round: Mapping[int, Evaluation]) -> None:
    """Write a csv file with the scores of each group after each of the rounds.

    Columns: round, grouping, group, users, tokens, loss (NLL in nats a token, over all tokens of
    the group), and accuracy where classes are predicted. Users without a scored record are in no
    group; a group without users has no line.

    Args:
        by_round: scores by round; round 0 is the base model.

    Raises:
        ValueError: an evaluation has no scores of records.
    """
    lines = [
        {"round": number, **row}
        for number, scores in by_round.items()
        for row in rows(heldout, scores)
    ]
    with durable_file.text(path) as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def rows(heldout: Population, scores: Evaluation) -> list[dict[str, Any]]:
    """One evaluation by groups: the columns of `write` but the round.

    Raises:
        ValueError: the evaluation has no scores of records.
    """
    records = scores.records
    if records is None:
        raise ValueError("This evaluation has no scores of records.")
    users = np.unique(records.users)
    lines = []
    for grouping, values in traits(heldout, records).items():
        third = thirds(values)
        for number, name in enumerate(GROUPS[grouping]):
            members = users[third == number]
            if len(members):
                lines.append({"grouping": grouping, "group": name, **_scored(records, members)})
    return lines


def traits(heldout: Population, records: RecordScores) -> dict[str, np.ndarray]:
    """The traits of users, by grouping.

    - records: number of scored records;
    - length: mean number of tokens of a record, before it is cut;
    - vocabulary: mean log frequency of the user's tokens in the records of all *other* held-out
      users, with counts raised by one; high is common. A user's records are left out, since a user
      with many records would raise the frequency of their own words.

    Returns:
        (users with a scored record,) float64 by grouping, in the order of their slots.
    """
    users, counts = np.unique(records.users, return_counts=True)
    end = None if records.right is None else -1  # the last token of a record is its class
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
    """(texts,) mean log frequency of a text's tokens in all the other texts, smoothed by one.

    Args:
        texts: (tokens,) token ids, one array for each user.
    """
    everything = np.concatenate(texts)
    counts = np.bincount(everything)
    kinds = np.count_nonzero(counts)
    means = np.empty(len(texts))
    for place, text in enumerate(texts):
        tokens, repeats = np.unique(text, return_counts=True)
        logs = np.log((counts[tokens] - repeats + 1) / (len(everything) - len(text) + kinds))
        means[place] = repeats @ logs / len(text)
    return means


def thirds(values: np.ndarray) -> np.ndarray:
    """The third of each user, 0, 1 or 2, cut at the quantiles 1/3 and 2/3 of the values.

    Users with equal values are in the same group, the lower one, so that groups of a trait with few
    distinct values may differ in size, or be empty.

    Args:
        values: (users,) of one trait.

    Returns:
        (users,) int64.
    """
    cuts = np.quantile(values, [1 / 3, 2 / 3], method="inverted_cdf")
    return np.searchsorted(cuts, values, side="left")


def _scored(records: RecordScores, members: np.ndarray) -> dict[str, Any]:
    included = np.isin(records.users, members)
    tokens = int(records.tokens[included].sum())
    loss = float(records.losses[included].sum()) / tokens
    row = {"users": len(members), "tokens": tokens, "loss": loss}
    if records.right is None:
        return row
    return {**row, "accuracy": float(records.right[included].mean())}
