"""The fused plain side trains on what stock peft trains on."""

from __future__ import annotations

import pytest
import torch

from helpers.tiny_work import spec
from userdp.analysis.benchmark import fused_plain, private_round
from userdp.analysis.benchmark.peers import work as works
from userdp.analysis.benchmark.peers.work import Work
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings


@pytest.mark.parametrize("max_tokens", [8, 10**6])
@pytest.mark.parametrize("packed", [False, True])
def test_the_gradients_of_a_pass_are_that_of_stock_peft_over_all_records(max_tokens, packed):
    work = Work(spec(max_tokens=max_tokens, packed=packed))
    model = LanguageModel(work.base(), LoraSettings(r=work.spec.rank, alpha=2 * work.spec.rank))
    adapter = torch.from_numpy(work.adapter(model.layout.size))
    engine = private_round.fitted_engine(model, work.spec)
    found = sum(fused_plain.gradients(work, model, engine, adapter))
    plain = work.plain()
    losses = []
    for records in work.users():
        batch = works.collate(records, "cpu")
        losses.append(works.record_losses(plain, batch["input_ids"], batch["labels"]))
    grads = torch.autograd.grad(torch.cat(losses).mean(), works.trained(plain))
    wanted = torch.cat([grad.flatten() for grad in grads])
    assert (found - wanted).norm() < 1e-5 * wanted.norm()
