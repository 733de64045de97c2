"""The work of a side: the same in every process, and the mean loss over real tokens."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

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


def test_equal_specs_give_equal_work():
    one, other = Work(spec()), Work(Spec(**json.loads(json.dumps(spec().__dict__))))
    assert np.array_equal(one.tokens, other.tokens)
    assert all(
        torch.equal(a, b)
        for a, b in zip(one.base().parameters(), other.base().parameters(), strict=True)
    )
