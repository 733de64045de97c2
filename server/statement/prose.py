"""English text of a privacy statement; every figure in it is a field of the statement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from userdp.server.mechanisms import registry
from userdp.server.statement import conditions

DIGITS = 6  # significant digits of an epsilon: upper values rounded up, lower values down

# Values that a field of the statement may have, and how the text says them.
ADJACENCY = {
    "add-or-remove-one-user": "adding or removing one user with all records",
    "zero-out-one-user": "emptying one user's records while the number of users stays",
}
CLIPPED_UNIT = {
    "user": "each sampled user, the mean over the user's records,",
    "record_slot": "each sampled record slot",
}
SEEDS = {
    "secret": "coins and noise come from the operating system and are not kept",
    "reproducible": "coins and noise come from a seed and can be repeated",
}
UNIT = {
    "user": "all records under one user id",
    "record": "one record, filed as a user of its own",
}
CHOICES: dict[str, Mapping[str, str]] = {
    "unit": UNIT,
    "adjacency": ADJACENCY,
    "clipped_unit": CLIPPED_UNIT,
    "seeds_policy": SEEDS,
}


def round_up(value: float, digits: int = DIGITS) -> float | None:
    """The least number with so many significant digits that is >= value; None for infinity.

    >>> round_up(2.12453712), round_down(2.12453712)
    (2.12454, 2.12453)
    """
    return _rounded(value, digits, ROUND_CEILING)


def round_down(value: float, digits: int = DIGITS) -> float | None:
    """The largest number with so many significant digits that is <= value; None for infinity."""
    return _rounded(value, digits, ROUND_FLOOR)


def _rounded(value: float, digits: int, direction: str) -> float | None:
    if value == 0 or math.isinf(value):
        return None if value else 0.0
    exact = Decimal(repr(value))  # shortest decimal form, so that rounding twice changes nothing
    return float(exact.quantize(Decimal(1).scaleb(exact.adjusted() - digits + 1), direction))


def text(statement: Mapping[str, Any]) -> str:
    """The statement as paragraphs of plain text, the claim in the first line.

    For a run that is not private, the first line says NOT PRIVATE and the reasons.

    Raises:
        ConfigurationError: there is no mechanism of the statement's strategy.
    """
    paragraphs = [claim(statement), _protected(statement), statement["trust_model"]]
    paragraphs += [_mechanism(statement), _account(statement)]
    paragraphs.append(_listed("It assumes that:", statement["assumptions"]))
    paragraphs.append(_listed("Released:", statement["released"]))
    paragraphs.append(_listed("Not covered:", statement["not_covered"]))
    paragraphs.append(
        f"Seeds: {SEEDS[statement['seeds_policy']]}. Code {statement['code_hash']}, "
        f"ledger {statement['ledger_hash']}."
    )
    return "\n\n".join(paragraphs) + "\n"


def claim(statement: Mapping[str, Any], subject: str = "This adapter") -> str:
    """The first paragraph of `text`, made of the statement alone: it needs no mechanism's code.

    Args:
        subject: what the claim is about, the adapter or something made of it and of public values.
    """
    if not statement["private"]:
        reasons = "; ".join(statement["reasons"])
        return f"NOT PRIVATE: {reasons}. {subject} carries no differential privacy guarantee."
    return (
        f"{subject} is (epsilon = {_shown(statement['epsilon'])}, "
        f"delta = {_shown(statement['delta'])})-differentially private at {relation(statement)}"
        f"{conditions.first_sentence(statement)}. "
        f"{_tier(statement['epsilon'])}{conditions.scores_sentence(statement)}"
    )


def relation(facts: Mapping[str, Any]) -> str:
    """Privacy unit and adjacency of a claim; ``facts``: a statement or a ledger's header."""
    unit, adjacency = facts["unit"], ADJACENCY[facts["adjacency"]]
    records = ", where every record is a user of its own" if unit == "record" else ""
    return f"{unit} level, under {adjacency}{records}"


def _tier(epsilon: float) -> str:
    """Strength of an epsilon, in the tiers of Ponomareva et al. (arXiv 2303.00654, section 5.2)."""
    if epsilon <= 1:
        strength = "at most 1, a strong formal guarantee"
    elif epsilon <= 10:
        strength = "at most 10, commonly taken as a reasonable guarantee"
    else:
        strength = "above 10, a weak formal guarantee"
    return f"Epsilon is {strength} (tiers of arXiv 2303.00654)."


def _protected(statement: Mapping[str, Any]) -> str:
    limit, rule = statement["records_per_user"], statement["selection"]
    kept = "All records of a user take part"
    if limit != "all":
        kept = f"At most {limit} records of a user take part, selected by the rule {rule!r}"
    filled = ", repeated to fill all slots" if statement["resample"] else ""
    return (
        f"Unit: a user, that is {UNIT[statement['unit']]}, out of "
        f"{statement['declared_users']} declared users. {kept}{filled}."
    )


def _mechanism(statement: Mapping[str, Any]) -> str:
    sampling = statement["sampling"]
    cap = "no cap"
    if sampling["cap"] is not None:
        cap = f"of which a uniformly random {sampling['cap']} stay where more are drawn"
    mechanism = registry.describing(statement["strategy"])
    noise = "without noise"
    if statement["noise_multiplier"]:
        noise = mechanism.noise_sentence(statement)
    divided = f"divided by {statement['denominator']} whatever the real cohort was"
    released = mechanism.release_sentence(statement, f"{noise}, {divided}")
    return (
        f"Mechanism: {statement['strategy']}, {_counted(statement['rounds'], 'round')}. "
        f"Sampling is {sampling['scheme']} with rate {sampling['rate']}, "
        f"{sampling['expected_cohort']} units expected in a round, {cap}. "
        f"The update of {CLIPPED_UNIT[statement['clipped_unit']]} "
        f"after {_counted(statement['local_steps'], 'local step')} "
        f"is {_clipped(statement)}; {released}.{_adaptive(statement)}{_details(statement)}"
    )


def _clipped(statement: Mapping[str, Any]) -> str:
    clipped = "not clipped"
    if statement["clip_norm"] is not None:
        clipped = registry.describing(statement["strategy"]).clip_sentence(statement)
    if statement["rescaled"]:
        return f"multiplied by a public vector, made of earlier releases alone, and {clipped}"
    return clipped


def _adaptive(statement: Mapping[str, Any]) -> str:
    adaptive = statement["adaptive_clip"]
    if adaptive is None:
        return ""
    return (
        f" The clip norm is that of the first round; it then follows the {adaptive['quantile']} "
        f"quantile of the units' norms at a learning rate of {adaptive['learning_rate']}, by a "
        f"count of unclipped units with Gaussian noise of standard deviation "
        f"{adaptive['bit_noise_std']}. Sum and count together cost one Gaussian of noise "
        f"multiplier {statement['noise_multiplier']}."
    )


def _details(statement: Mapping[str, Any]) -> str:
    """Sentence with the parameters that only this mechanism has; empty where there are none."""
    details = statement["mechanism_details"]
    listed = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in details.items())
    return f" Its own parameters: {listed}." if listed else ""


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _account(statement: Mapping[str, Any]) -> str:
    if statement["epsilon"] is None:
        return "Account: epsilon is infinite."
    scope = (
        "" if statement["private"] else ", for the mechanism as configured and not for this run,"
    )
    text = (
        f"Account: {statement['accountant']} {statement['accountant_version']} over the rounds in "
        f"the ledger gives epsilon between {_shown_down(statement['epsilon_lower'])} and "
        f"{_shown(statement['epsilon'])}{scope} at delta = {_shown(statement['delta'])}."
    )
    others = statement["epsilon_at_deltas"]
    if others:
        listed = ", ".join(f"{value} at {delta}" for delta, value in others.items())
        text += f" The same rounds at other deltas: {listed}."
    if statement["rounds_per_event"] > 1:
        text += (
            f" A user takes part at most once in {statement['rounds_per_event']} rounds, which "
            "cost one event together."
        )
    if statement["group_bound"] is not None:
        text += f" A user's slots are joined by the {statement['group_bound']} bound."
    return text + _slots(statement) + _sweep(statement)


def _slots(statement: Mapping[str, Any]) -> str:
    if statement["slot_epsilon"] is None:
        return ""
    level = (
        "record level" if statement["record_level"] else "slot level (which is not record level)"
    )
    epsilon = _shown(statement["slot_epsilon"])
    return f" At {level} epsilon is {epsilon}, at {statement['unit']} level as above."


def _sweep(statement: Mapping[str, Any]) -> str:
    if statement["sweep"] is None:
        return ""
    return " This run is one of a sweep over the same users: the cost of all its runs adds up."


def _shown(value: float | None) -> str:
    """An upper value, rounded up to ``DIGITS`` digits."""
    return "infinity" if value is None else f"{round_up(value):.{DIGITS}g}"


def _shown_down(value: float | None) -> str:
    """A lower value, rounded down to ``DIGITS`` digits."""
    return "infinity" if value is None else f"{round_down(value):.{DIGITS}g}"


def _listed(title: str, items: list[str]) -> str:
    return "\n".join([title, *(f"- {item}" for item in items)])
