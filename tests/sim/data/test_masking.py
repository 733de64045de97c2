"""Tokens with their mask in the sign."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from userdp.sim.data import masking

TOKENS = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), min_size=1, max_size=20)


@given(TOKENS)
def test_ids_and_mask_come_back_from_the_signed_tokens(pairs):
    ids, flags = zip(*pairs, strict=True)
    record = np.array(masking.signed(ids, flags), np.int32)
    assert masking.tokens(record).tolist() == list(ids)
    assert masking.learned(record).tolist() == list(flags[1:])  # the first token has no context
    assert masking.predicted(record) == sum(flags[1:])


@given(TOKENS)
def test_given_tokens_are_never_predicted(pairs):
    record = np.array(masking.given([token for token, _ in pairs]), np.int32)
    assert masking.predicted(record) == 0
    assert masking.tokens(record).tolist() == [token for token, _ in pairs]


def test_padding_is_a_token_that_is_not_learned():
    assert masking.tokens(np.array([masking.PADDING])).tolist() == [0]
    assert masking.predicted(np.array([5, masking.PADDING])) == 0
