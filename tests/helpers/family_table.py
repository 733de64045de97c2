"""Writes the families of docs/models.md: ``PYTHONPATH=tests python -m helpers.family_table``.

Every family of transformers' auto classes is built from a tiny configuration, probed, and compared
with plain peft (`helpers.family_oracle`). It takes some minutes.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

from helpers import families, family_oracle
from helpers.family_oracle import Verdict

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
START, END = "<!-- families: start -->", "<!-- families: end -->"
_TITLES = {"CAUSAL_LM": "Next-token prediction", "SEQ_CLS": "Classification"}
_LATER = "sees later ones"

# Why a family is refused, by a part of the refusal.
_REASONS = {
    _LATER: "a position sees later ones: not a causal model",
    "mixes users": "an update depends on the texts beside it",
    "does not read its text": "its head reads padding, or another position than the last",
    "none of these layers": "none of its linear layers has rows first and a gradient",
    "<eos>": "its head wants an end-of-text token in every text",
}
_OTHERWISE = "its code does not take token ids alone"


def verdicts(task: str) -> dict[str, Verdict]:
    """The verdict of every family of the task; a decoder's where only this is causal."""
    found = {}
    for family in families.names(task):
        found[family] = family_oracle.verdict(family, task)
        if _LATER in found[family].detail:
            decoder = family_oracle.verdict(family, task, is_decoder=True)
            if decoder.outcome == "trained":
                found[family] = Verdict("decoder", decoder.detail)
        print(task, family, *found[family], sep="\t", file=sys.stderr, flush=True)
    return found


def section(found: Mapping[str, Mapping[str, Verdict]]) -> str:
    """The text between the page's markers, of the verdicts by task and family."""
    return "\n".join(line for task, title in _TITLES.items() for line in _part(title, found[task]))


def _part(title: str, found: Mapping[str, Verdict]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for family, verdict in found.items():
        groups.setdefault(_group(verdict), []).append(f"`{family}`")
    lines = [f"### {title}", ""]
    for group in sorted(groups, key=lambda group: (not group.startswith("**Trained"), group)):
        names = groups[group]
        text = f"{group} ({len(names)}): {', '.join(names)}."
        lines += [*textwrap.wrap(text, 120, break_on_hyphens=False), ""]
    return lines


def _group(verdict: Verdict) -> str:
    if verdict.outcome == "refused":
        why = next((text for part, text in _REASONS.items() if part in verdict.detail), _OTHERWISE)
        return f"**Refused**, {why}"
    return {
        "trained": "**Trained**",
        "decoder": "**Trained** with `is_decoder: true`, refused without, as not causal",
        "not built": "Not tested, not built from a tiny configuration here",
    }[verdict.outcome]


def page(text: str) -> str:
    """The page with this section."""
    before, _, rest = PAGE.read_text().partition(START)
    return f"{before}{START}\n\n{text}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(section({task: verdicts(task) for task in _TITLES})))
