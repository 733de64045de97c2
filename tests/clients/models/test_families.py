"""Every family that transformers builds is trained as plain peft trains it, or refused by name."""

from __future__ import annotations

import pytest

from helpers import families, family_table
from helpers.family_oracle import Verdict


@pytest.mark.slow
@pytest.mark.trust
def test_every_family_is_equal_or_refused_and_the_page_says_so():
    """An inequality or an error that is no refusal raises in the oracle."""
    found = {task: family_table.verdicts(task) for task in ("CAUSAL_LM", "SEQ_CLS")}
    assert family_table.page(family_table.section(found)) == family_table.PAGE.read_text()


def test_the_page_has_every_family_once_per_task():
    text = family_table.PAGE.read_text()
    parts = text.partition(family_table.START)[2].split("### ")[1:]
    for task, part in zip(("CAUSAL_LM", "SEQ_CLS"), parts, strict=True):
        listed = [name for name in part.split("`")[1::2] if name != "is_decoder: true"]
        assert sorted(listed) == sorted(families.names(task))


def test_the_table_groups_families_by_verdict():
    found = {
        "CAUSAL_LM": {"a": Verdict("trained", ""), "b": Verdict("trained", "")},
        "SEQ_CLS": {"c": Verdict("refused", "model.path: this model (c) mixes users: ...")},
    }
    text = family_table.section(found)
    assert "**Trained** (2): `a`, `b`." in text
    assert "**Refused**, an update depends on the texts beside it (1): `c`." in text
