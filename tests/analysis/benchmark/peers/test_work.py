"""The work of a side: the same in every process, and the mean loss over real tokens."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from helpers.quantized import library
from helpers.tiny_work import spec
from userdp.analysis.benchmark.peers.work import IGNORED, Spec, Work, collate, record_losses


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_loss_of_a_plain_batch_is_the_mean_over_its_real_tokens(family):
    work = Work(spec(family=family))
    model, rows = work.plain(), work.rows()
    batch = collate(rows, "cpu")
    assert (batch["labels"] == IGNORED).sum() == len(rows) * 12 - sum(map(len, rows))
    with torch.no_grad():
        ids = [torch.from_numpy(row[None]).long() for row in rows]
        alone = [float(model(input_ids=row, labels=row).loss) for row in ids]
        together = float(model(**batch).loss)
        apart = record_losses(model, batch["input_ids"], batch["labels"])
    predicted = [len(row) - 1 for row in rows]
    assert together == pytest.approx(np.average(alone, weights=predicted), rel=1e-5)
    assert apart.tolist() == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_equal_specs_give_equal_work(quantize):
    family = "llama" if quantize else "gpt2"
    if quantize:
        library("torchao")
    given = spec(family=family, quantize=quantize)
    one, other = Work(given), Work(Spec(**json.loads(json.dumps(given.__dict__))))
    assert np.array_equal(one.tokens, other.tokens)
    tensors = [work.base().state_dict() for work in (one, other)]
    assert list(tensors[0]) == list(tensors[1])
    assert all(torch.equal(a, b) for a, b in zip(*(t.values() for t in tensors), strict=True))
    assert len({name for name in tensors[0] if name.endswith(".codes")}) == (14 if quantize else 0)
