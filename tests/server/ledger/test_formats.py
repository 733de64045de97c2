"""A field that an older ledger lacks is unknown; a field that differs is a difference."""

from __future__ import annotations

import pytest

from userdp.server.ledger import hash_chain

OLD = {"clip_norm": 1.0, "event": {"noise_multiplier": 2.0}}
NEW = {**OLD, "cohort": 6, "data": {"user": "user_id", "holdout": 0.1}}


def test_what_the_first_format_lacks_is_no_difference():
    assert hash_chain.differences(OLD, NEW, 1) == []


def test_what_the_present_format_lacks_is_one():
    assert len(hash_chain.differences(OLD, NEW, hash_chain.FORMAT)) == 3


@pytest.mark.parametrize("ledger_format", hash_chain.UNRECORDED)
def test_only_the_listed_fields_may_be_lacking(ledger_format):
    asked = {**NEW, "clip_norm": 2.0, "surprise": 1}
    told = hash_chain.differences({**NEW}, asked, ledger_format)
    assert [line.partition(":")[0] for line in told] == ["clip_norm", "surprise"]


def test_a_field_that_an_old_ledger_has_is_compared():
    stored = {**OLD, "data": {"user": "sender", "holdout": 0.1}}
    [told] = hash_chain.differences(stored, NEW, 1)
    assert told == "data.user: 'sender' in the ledger, 'user_id' asked"


@pytest.mark.parametrize("ledger_format", [0, 3, "2", None])
def test_other_formats_are_refused(ledger_format):
    header = {"kind": "header", "format": ledger_format, "mechanism": {}, "created": "", "code": ""}
    with pytest.raises(ValueError, match="ledger format"):
        hash_chain.Chain().check(hash_chain.seal(header, ""))
