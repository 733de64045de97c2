"""Our benchmark rounds give the clipped sums of independent implementations on the same work."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers.quantized import library
from helpers.tiny_work import spec
from userdp.analysis.benchmark import private_round
from userdp.analysis.benchmark.peers import loop
from userdp.analysis.benchmark.peers.work import Work


def clipped_sum(main, work: Work) -> np.ndarray:
    """(D,) float64, of the side that ``main`` serves."""
    sums = []
    main(work, lambda side: sums.append(side.clipped_sum()))
    return sums[0]


@pytest.mark.parametrize("clip_norm", [1e-3, 1e3], ids=["all clipped", "none clipped"])
def test_a_loop_over_users_adds_up_to_the_clipped_sum_of_our_round(clip_norm):
    work = Work(spec(clip_norm=clip_norm))
    ours = clipped_sum(private_round.user_wise, work)
    theirs = clipped_sum(loop.main, work)
    assert np.linalg.norm(ours) > 0
    assert np.linalg.norm(theirs - ours) < 1e-5 * np.linalg.norm(ours)


def test_peft_over_a_quantised_base_adds_up_to_the_clipped_sum_of_our_round():
    library("torchao")
    work = Work(spec(family="llama", kv_heads=1, quantize="int8", clip_norm=1e-3))
    ours = clipped_sum(private_round.user_wise, work)
    theirs = clipped_sum(loop.main, work)
    assert np.linalg.norm(theirs - ours) < 1e-5 * np.linalg.norm(ours)
    whole = clipped_sum(private_round.user_wise, Work(replace(work.spec, quantize=None)))
    assert np.linalg.norm(whole - ours) > 1e-3 * np.linalg.norm(ours)


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_opacus_adds_up_to_the_clipped_sum_of_our_round_over_records():
    opacus = pytest.importorskip("userdp.analysis.benchmark.peers.opacus")
    work = Work(spec(clip_norm=1e-3, batch=3))
    ours = clipped_sum(private_round.group_privacy, work)
    theirs = clipped_sum(opacus.main, work)
    assert np.linalg.norm(theirs - ours) < 1e-4 * np.linalg.norm(ours)


def test_pfl_adds_up_to_the_clipped_sum_of_our_round():
    pytest.importorskip("pfl")
    pfl = pytest.importorskip("userdp.analysis.benchmark.peers.pfl")
    work = Work(spec(clip_norm=1e-3))
    ours = clipped_sum(private_round.user_wise, work)
    assert np.linalg.norm(clipped_sum(pfl.main, work) - ours) < 1e-4 * np.linalg.norm(ours)
