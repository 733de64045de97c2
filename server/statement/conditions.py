"""Conditions of a claim that stand beside its epsilon, in the first paragraph of every text.

They are items of the lists ``assumptions`` and ``not_covered`` of a statement, so that an older
statement, which has the items but no such paragraph, is told in the same words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

HELD_OUT_USERS = "users held out for evaluation: their scores are published as they are"
HELD_OUT_RECORDS = (
    "held-out records of users who train: scores on them are published after every evaluation as "
    "they are, without noise"
)
_SCORES = "scores on evaluation users"
_RECORD_SCORES = "scores on held-out records, also of users who train"
RELEASED = ("the adapter after every round", "the configuration", _SCORES)
_FOREIGN = "the noise of every round is added by code outside userdp"
_ONE_NODE = "all records of a user are on one node"


def holds_out_records(header: Mapping[str, Any]) -> bool:
    """Whether a user who trains may have held-out records; ``header``: of a ledger.

    A split column may put records of one user on both sides. Whether it does depends on private
    data, so it counts as if it did. A record that is a user of its own has one side.
    """
    return bool(header.get("split", "user") != "user" and header["unit"] != "record")


def held_out(header: Mapping[str, Any]) -> str:
    """What the claim does not cover for evaluation's sake."""
    return HELD_OUT_RECORDS if holds_out_records(header) else HELD_OUT_USERS


def released(header: Mapping[str, Any], items: Sequence[str]) -> list[str]:
    """The items that a run publishes, with the scores under the name that fits its split."""
    scores = _RECORD_SCORES if holds_out_records(header) else _SCORES
    return [scores if item == _SCORES else item for item in items]


def assumptions(header: Mapping[str, Any]) -> list[str]:
    """Those of the claim's first sentence: a counted N, noise from another package, and nodes
    with records of their own."""
    items = []
    if header["users_counted"]:
        items.append(_counted(header))
    if code := header.get("mechanism_code"):
        items.append(f"{_FOREIGN}: {header['strategy']}, SHA-256 {code}")
    if hosted := header.get("nodes_hold_records"):
        items.append(_one_node_a_user(hosted["cut"]))
    return items


def _one_node_a_user(cut: str | None) -> str:
    """Who is on two nodes is two units of the mechanism, and its noise hides one."""
    if cut is None:
        return f"{_ONE_NODE}, which the owners of the nodes have to see to: nothing checked it"
    return (
        f"{_ONE_NODE}: userdp shard checked it for the cut {cut[:8]}, of which every node says "
        "that its records are"
    )


def first_sentence(statement: Mapping[str, Any]) -> str:
    """The part of the claim's sentence after the adjacency; empty where there is no condition."""
    counted = _counted(statement)
    told = [
        item
        for item in statement["assumptions"]
        if item == counted or item.startswith((f"{_FOREIGN}: ", _ONE_NODE))
    ]
    return f", where {', and '.join(told)}" if told else ""


def of_runs(statements: Iterable[Mapping[str, Any]]) -> list[str]:
    """The conditions of several claims as sentences, each once, for a text about all of them."""
    private = [statement for statement in statements if statement.get("private")]
    firsts = [first_sentence(statement).removeprefix(", where ") for statement in private]
    scores = [scores_sentence(statement).strip() for statement in private]
    told = [f"Of a claim: {text}." for text in firsts if text] + [text for text in scores if text]
    return list(dict.fromkeys(told))


def scores_sentence(statement: Mapping[str, Any]) -> str:
    """The sentence about held-out records of users who train; empty where there are none."""
    if HELD_OUT_RECORDS not in statement["not_covered"]:
        return ""
    return (
        " It does not cover the published scores: these are computed without noise on held-out "
        "records of the same users who train."
    )


def _counted(facts: Mapping[str, Any]) -> str:
    return (
        f"the number of users, {facts['declared_users']}, was counted from the training data "
        "once and is treated as public"
    )
