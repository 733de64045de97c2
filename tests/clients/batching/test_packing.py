"""Packing puts every record of every unit into exactly one stack, with the weight of its unit."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import tiny
from userdp.clients.batching import packing

RECORD = st.integers(2, 12).flatmap(
    lambda n: st.lists(st.integers(0, 99), min_size=n, max_size=n).map(np.array)
)
BLOCK = st.lists(st.lists(RECORD, min_size=1, max_size=6), min_size=1, max_size=6)


def owners(stack):
    """(rows,) lane of the block that each row belongs to, as the stacked layers see it."""
    return np.repeat(stack.lanes, len(stack.tokens) // len(stack.lanes))


def rows(stacks):
    return [
        (int(lane), tuple(row[:length]))
        for stack in stacks
        for lane, row, length in zip(owners(stack), stack.tokens, stack.lengths, strict=True)
    ]


@settings(max_examples=150, deadline=None)
@given(BLOCK, st.integers(1, 80))
def test_every_record_occurs_once_in_its_own_units_lane(block, max_tokens):
    wanted = [(lane, tuple(record)) for lane, unit in enumerate(block) for record in unit]
    assert Counter(rows(packing.stacks(block, max_tokens))) == Counter(wanted)


@settings(max_examples=150, deadline=None)
@given(BLOCK, st.integers(1, 80))
def test_a_stack_holds_at_most_max_tokens_unless_it_is_one_row(block, max_tokens):
    for stack in packing.stacks(block, max_tokens):
        count, width = stack.tokens.shape
        assert count == 1 or count * (width - 1) <= max_tokens
        assert width == stack.lengths.max()  # no column is padding only


@settings(max_examples=150, deadline=None)
@given(BLOCK, st.integers(1, 80))
def test_a_units_tokens_weigh_one_over_its_records_and_the_records_tokens(block, max_tokens):
    seen = Counter()
    for stack in packing.stacks(block, max_tokens):
        weights = np.split(stack.token_weights(), np.cumsum(stack.lengths - 1)[:-1])
        for lane, length, part in zip(owners(stack), stack.lengths, weights, strict=True):
            np.testing.assert_allclose(part, 1 / (len(block[lane]) * (length - 1)), rtol=1e-6)
            seen[int(lane)] += float(part.sum())
    assert [seen[lane] for lane in range(len(block))] == pytest.approx([1.0] * len(block))


@settings(max_examples=150, deadline=None)
@given(BLOCK, st.integers(1, 80))
def test_predicted_positions_are_the_records_tokens_after_the_first_and_never_padding(
    block, max_tokens
):
    for stack in packing.stacks(block, max_tokens):
        targets = stack.tokens[:, 1:].ravel()[stack.positions()]
        pairs = zip(stack.tokens, stack.lengths, strict=True)
        assert targets.tolist() == np.concatenate([r[1:n] for r, n in pairs]).tolist()
        assert len(targets) == len(stack.token_weights())


MASKED = RECORD.flatmap(
    lambda r: st.lists(st.booleans(), min_size=len(r), max_size=len(r)).map(
        lambda flags: np.where(flags, ~r, r)
    )
).filter(lambda r: (r[1:] >= 0).any())


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(MASKED, min_size=1, max_size=6), min_size=1, max_size=6),
       st.integers(1, 80))  # fmt: skip
def test_given_tokens_are_read_and_not_predicted_and_a_rows_weight_stays(block, max_tokens):
    seen, wanted = Counter(), Counter()
    for stack in packing.stacks(block, max_tokens):
        targets = np.split(
            stack.tokens[:, 1:].ravel()[stack.positions()], np.cumsum(stack.learned_tokens())[:-1]
        )
        weights = np.split(stack.token_weights(), np.cumsum(stack.learned_tokens())[:-1])
        parts = zip(owners(stack), stack.tokens, stack.lengths, targets, weights, strict=True)
        for lane, row, length, learned, part in parts:
            seen[int(lane), tuple(row[:length]), tuple(learned)] += 1
            assert part.sum() == pytest.approx(1 / len(block[lane]), rel=1e-5)
            assert part.min() == part.max()
    for lane, unit in enumerate(block):
        for r in unit:
            plain = [t if t >= 0 else ~t for t in r.tolist()]
            wanted[lane, tuple(plain), tuple(t for t in r[1:].tolist() if t >= 0)] += 1
    assert seen == wanted


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(RECORD, max_size=3), max_size=9), st.integers(1, 4))
def test_blocks_hold_each_filled_unit_once_and_no_empty_one(units, max_lanes):
    blocks = list(packing.blocks(units, max_lanes))
    assert all(1 <= len(block) <= max_lanes for block in blocks)
    assert sorted(id(unit) for block in blocks for unit in block) == sorted(
        id(unit) for unit in units if unit
    )


def test_blocks_read_units_as_they_are_needed():
    requested, most_ahead = 0, 0

    def units():
        nonlocal requested
        for unit in tiny.ragged_units(2) * 40:
            requested += 1
            yield unit

    for number, block in enumerate(packing.blocks(units(), 1), start=1):
        assert len(block) == 1
        most_ahead = max(most_ahead, requested - number)
    assert most_ahead <= 16
    assert requested == 80


def test_halves_hold_every_row_once_with_its_lane_and_weight():
    block = tiny.ragged_units(5)
    for stack in packing.stacks(block, 60):
        if len(stack.records) < 2:
            continue
        parts = packing.halves(stack)
        assert sum(len(part.records) for part in parts) == len(stack.records)
        records = [(lane, record.tobytes()) for part in parts for lane, record in part.records]
        assert records == [(lane, record.tobytes()) for lane, record in stack.records]
        weights = np.concatenate([part.row_weights for part in parts])
        np.testing.assert_array_equal(weights, stack.row_weights)


@pytest.mark.parametrize(("token", "fits"), [(9, True), (10, False), (~9, True), (~10, False)])
def test_a_record_is_in_the_vocabulary_if_all_its_ids_are_learned_or_not(token, fits):
    assert packing.in_vocabulary(np.array([1, token, 2]), 10) == fits
