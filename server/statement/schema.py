"""Schema of the privacy statement: its fields, their values, and checks for contradictions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from userdp.server.statement import conditions, prose
from userdp.sim.common import foreign_code

FORMAT = 2
LACKING = {1: ("simulation_only", "files"), FORMAT: ()}  # fields that older formats do not have
NOT_COVERED = (
    "tuning: settings that were chosen by looking at other runs on the same users",
    "the base model and its tokenizer: what they learned from their own training data",
    "what other users wrote about a user: a record belongs to the one user id it is filed under",
    "a person with several user ids: each id is a user of its own",
)
SIMULATION_ONLY = (
    "metrics marked simulation_only: computed from private data without noise, and written by this "
    "run because track.simulation_only was on"
)
RECORDS = "a person with several records: each record is a user of its own"
NAMES = ("strategy", "accountant", "selection")  # fields that name code, never free text
_NUMBER, _OPTIONAL = (int, float), (int, float, type(None))
FIELDS: dict[str, type | tuple[type, ...]] = {
    "format": int,
    "private": bool,
    "reasons": list,  # why the run is not private; empty when it is
    "strategy": str,
    "unit": str,  # privacy unit: user, or record where every record is its own user
    "clipped_unit": str,  # unit that one clip bounds: user or record_slot
    "adjacency": str,
    "trust_model": str,
    "declared_users": int,
    "epsilon": _OPTIONAL,  # certified upper value; null is infinite
    "epsilon_lower": _OPTIONAL,
    "epsilon_at_deltas": dict,  # delta as text -> upper value of epsilon
    "delta": _OPTIONAL,
    "accountant": str,
    "accountant_version": str,
    "noise_multiplier": _NUMBER,  # z, of all queries of a round together
    "clip_norm": _OPTIONAL,  # of the first round, where it adapts
    "adaptive_clip": (dict, type(None)),  # quantile, learning rate, noise of update and bits
    "denominator": _NUMBER,  # expected units in a round
    "sampling": dict,  # scheme, rate, expected_cohort, cap
    "mechanism_details": dict,  # public parameters that only this mechanism has
    "rounds_per_event": int,  # rounds in which a user takes part at most once
    "rounds": int,  # number of intents in the ledger, which may differ from the plan
    "records_per_user": (int, str),
    "resample": bool,
    "rescaled": bool,  # whether updates are multiplied by a public vector before the clip
    "local_steps": int,
    "group_bound": (str, type(None)),
    "slot_epsilon": _OPTIONAL,  # epsilon of one record slot, where slots are clipped
    "record_level": bool,  # whether slot_epsilon may be called record-level
    "selection": str,
    "released": list,
    "assumptions": list,
    "not_covered": list,
    "seeds_policy": str,
    "code_hash": str,
    "ledger_hash": str,
    "simulation_only": bool,  # whether any process of the run ever wrote values without noise
    "files": dict,  # path in the run folder -> SHA-256 of what was published, and the checkpoint
    "sweep": (dict, type(None)),
}


def validate(statement: Mapping[str, Any]) -> None:
    """Check that a statement is complete and does not contradict itself.

    Raises:
        ValueError: it is not; names the field.
    """
    lacking = LACKING.get(statement.get("format", FORMAT), ())
    for name, kind in FIELDS.items():
        if name in lacking and name not in statement:
            continue
        if name not in statement:
            raise ValueError(f"The privacy statement lacks {name!r}.")
        value = statement[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"The privacy statement has {name}={value!r}.")
    unknown = sorted(set(statement) - set(FIELDS))
    if unknown:
        raise ValueError(f"The privacy statement has unknown fields {unknown}.")
    _check_words(statement)
    if statement["private"]:
        _check_private(statement)


def _check_words(statement: Mapping[str, Any]) -> None:
    for name in NAMES:
        value = statement[name]
        if not (value.isidentifier() or foreign_code.is_dotted(value)):
            raise ValueError(f"The privacy statement has {name}={value!r}, which is no name.")
    for name, allowed in prose.CHOICES.items():
        if statement[name] not in allowed:
            raise ValueError(f"{name}={statement[name]!r}, expected one of {', '.join(allowed)}.")
    if statement["private"] == bool(statement["reasons"]):
        raise ValueError(f"private={statement['private']} with reasons={statement['reasons']}.")
    missing = [text for text in NOT_COVERED if text not in statement["not_covered"]]
    if missing:
        raise ValueError(f"not_covered does not name {missing[0]!r}.")
    held_out = (conditions.HELD_OUT_USERS, conditions.HELD_OUT_RECORDS)
    if sum(text in statement["not_covered"] for text in held_out) != 1:
        raise ValueError("not_covered does not say who is held out for evaluation.")
    if (statement["unit"] == "record") != (RECORDS in statement["not_covered"]):
        raise ValueError(f"unit={statement['unit']!r} with not_covered of the other unit.")
    said = SIMULATION_ONLY in statement["not_covered"]
    if statement.get("simulation_only", said) != said:
        raise ValueError(f"simulation_only={not said} with not_covered of a run that is not so.")
    if set(statement["sampling"]) != {"scheme", "rate", "expected_cohort", "cap"}:
        raise ValueError(f"sampling={statement['sampling']!r} is incomplete.")
    if statement["sampling"]["cap"] is not None and (statement["adjacency"] != "zero-out-one-user"):
        raise ValueError(
            f"adjacency={statement['adjacency']!r} with a cap of {statement['sampling']['cap']}: a "
            "capped cohort is accounted under zero-out-one-user alone."
        )
    if statement["record_level"] and statement["slot_epsilon"] is None:
        raise ValueError("record_level=True without slot_epsilon.")


def _check_private(statement: Mapping[str, Any]) -> None:
    positive = ("noise_multiplier", "clip_norm", "denominator", "declared_users", "delta")
    for name in positive:
        if not (statement[name] is not None and 0 < statement[name] < math.inf):
            raise ValueError(f"A private run has {name} > 0, not {statement[name]}.")
    users, delta = statement["declared_users"], statement["delta"]
    if delta * users >= 1:
        raise ValueError(f"Expected {delta=} below 1/{users}, one over declared_users.")
    if statement["epsilon"] is None:
        raise ValueError("A private run has a finite epsilon, not null.")
    if statement["seeds_policy"] != "secret":
        raise ValueError(
            f"A private run has seeds_policy='secret', not {statement['seeds_policy']!r}."
        )
