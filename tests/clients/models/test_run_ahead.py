"""Forward passes that ask for no value give what those that ask give."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import masking_utils

from helpers import tiny, tiny_classes
from userdp.clients.models import run_ahead

TOKENS = torch.arange(24).view(2, 12) % tiny.VOCABULARY
RESTARTED = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4]]).expand(2, -1)


@torch.no_grad()
def hidden(base, **inputs):
    return base.base_model(input_ids=TOKENS, use_cache=False, **inputs).last_hidden_state


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "gemma2", "opt"])
def test_the_results_are_the_same_and_positions_are_not_looked_at(monkeypatch, family):
    base = tiny.base_model(family)
    wanted = hidden(base)
    run_ahead.let(base)
    for name in ("cumsum", "all"):
        monkeypatch.setattr(torch.Tensor, name, None)
    assert torch.equal(hidden(base), wanted)


def test_texts_that_share_a_row_are_still_found_where_positions_are_given():
    """Otherwise tokens of one text would see those of another."""
    base = tiny.base_model("llama")
    run_ahead.let(base)
    packed = hidden(base, position_ids=RESTARTED)
    with torch.no_grad():
        alone = base.base_model(input_ids=TOKENS[:, 7:], use_cache=False).last_hidden_state
    torch.testing.assert_close(packed[:, 7:], alone, rtol=1e-4, atol=1e-4)
    assert (hidden(base)[:, 7:] - alone).abs().max() > 1e-2


def test_other_models_of_the_process_are_asked_as_before():
    run_ahead.let(tiny.base_model("llama"))
    assert masking_utils.find_packed_sequence_indices(RESTARTED) is not None
    assert masking_utils.fast_all(torch.ones(2, dtype=torch.bool))
    other = tiny.base_model("llama")
    assert (hidden(other, position_ids=RESTARTED) - hidden(other)).abs().max() > 1e-2


def test_an_error_in_a_pass_leaves_nothing_behind():
    base = tiny.base_model("llama")
    run_ahead.let(base)
    with pytest.raises(IndexError):
        base.base_model(input_ids=TOKENS + 10**6)
    assert not run_ahead._RUNNING.counted


def test_a_copy_computes_so_too_and_a_second_call_changes_nothing():
    base = tiny.base_model("llama")
    run_ahead.let(base)
    run_ahead.let(base)
    copied = copy.deepcopy(base)
    assert len(copied.base_model._forward_pre_hooks) == 1
    assert torch.equal(hidden(copied), hidden(base))


def test_a_mask_is_used_whether_or_not_it_masks_something():
    """So a text's rounding does not depend on whether all others have the full length."""
    base = tiny_classes.base_model("roberta")
    run_ahead.let(base)
    mask = torch.ones_like(TOKENS)
    full = base(input_ids=TOKENS, attention_mask=mask).logits
    mask[1, 8:] = 0
    beside_short = base(input_ids=TOKENS, attention_mask=mask).logits
    assert torch.equal(full[0], beside_short[0])
