"""Claims: what a ledger's rounds cost, and that an estimate is none."""

from __future__ import annotations

import pytest

from helpers.statements import claim


def test_an_estimate_is_no_claim():
    with pytest.raises(ValueError, match="edgeworth"):
        claim(accountant="edgeworth", certified=False)
    with pytest.raises(ValueError, match="epsilon_lower"):
        claim(epsilon=1.0, epsilon_lower=1.1, accountant="pld")
