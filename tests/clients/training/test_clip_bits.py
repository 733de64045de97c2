"""Clip bits of a cohort: units within the clip norm count, failed and empty units do not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import tiny
from userdp.clients.training import clipping, cohort_update
from userdp.clients.training.memory import EngineSettings


def bits_of(norms, clip_norm):
    tally = clipping.Tally.empty(norms.device)
    tally.add(norms, clip_norm)
    return tally.figures().unclipped_bits


@given(st.lists(st.floats(0, 1e30) | st.just(math.inf), max_size=9), st.floats(1e-6, 1e6))
def test_bits_count_units_within_the_clip_norm_and_not_failed_ones(norms, clip_norm):
    wanted = sum((1 if norm <= clip_norm else -1) / 2 for norm in norms if norm < math.inf)
    assert bits_of(torch.tensor(norms, dtype=torch.float64), clip_norm) == wanted


def test_units_without_records_and_failed_units_add_nothing_to_the_bits():
    model = tiny.language_model()
    units = [*tiny.ragged_units(3), [], [np.array([tiny.VOCABULARY, 1])], []]
    options = {"local": cohort_update.LocalTraining(), "engine": EngineSettings()}
    for clip_norm, wanted in ((1e9, 1.5), (1e-9, -1.5)):
        result = cohort_update.cohort_sum(
            model, model.initial, units, clip_norm=clip_norm, count_unclipped=True, **options
        )
        assert result.unclipped_bits == wanted


@pytest.mark.parametrize("clip_norm", [0.3, 1.0, 7.0])
def test_a_bit_says_whether_a_norm_is_at_most_c_to_the_last_bit(clip_norm):
    above, below = (np.nextafter(clip_norm, end) for end in (np.inf, 0.0))
    for norms, within, beyond in (
        ([clip_norm, below, 0.0], 3, 0),
        ([above, 1.01 * clip_norm, np.inf], 0, 3),
        ([above, clip_norm], 1, 1),
    ):
        tally = clipping.Tally.empty(torch.device("cpu"))
        tally.add(torch.tensor(norms, dtype=torch.float64), clip_norm)
        figures, finite = tally.figures(), sum(np.isfinite(norms))
        assert (figures.finite, figures.clipped) == (finite, beyond)
        assert figures.unclipped_bits == within - 0.5 * finite
