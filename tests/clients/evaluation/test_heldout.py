"""The held-out loss is the mean NLL of all predicted tokens, as plain peft computes it."""

from __future__ import annotations

import copy
import math

import numpy as np
import peft
import pytest
import torch

from helpers import tiny
from userdp.clients.batching import device_batches
from userdp.clients.batching.packed_rows import PackedStack
from userdp.clients.evaluation.heldout import evaluate
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.sim.data.population import Population


def adapter_of(model):
    generator = torch.Generator().manual_seed(2)
    return model.initial + 0.2 * torch.randn(model.layout.size, generator=generator)


def plain(family, adapter):
    """The base model with the adapter, of peft."""
    model = tiny.language_model(family)
    adapted = peft.get_peft_model(copy.deepcopy(tiny.base_model(family)), model.peft_config)
    named = model.layout.named(adapter.numpy())
    peft.set_peft_model_state_dict(
        adapted, {name: torch.from_numpy(tensor.copy()) for name, tensor in named.items()}
    )
    return adapted.eval()


def plain_losses(family, adapter, records):
    """Oracle: peft, one record at a time; NLL of each predicted token."""
    adapted, losses = plain(family, adapter), []
    for record in records:
        signed = torch.tensor(record)
        ids = torch.where(signed < 0, ~signed, signed)
        with torch.no_grad():
            logits = adapted(input_ids=ids[None]).logits[0, :-1]
        nll = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
        losses += nll[signed[1:] >= 0].tolist()
    return losses


def cut_records(population, seq_len):
    everyone = range(len(population))
    records = [record for user in everyone for record in population.records(user)]
    return [record[:seq_len].tolist() for record in records if len(record) > 1]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_the_loss_is_the_mean_over_all_predicted_tokens(family):
    model, population = tiny.language_model(family), tiny.people(4)
    adapter = adapter_of(model)
    losses = plain_losses(family, adapter, cut_records(population, 12))
    got = evaluate(model, adapter, population, seq_len=12, max_tokens=40)
    assert got.tokens == len(losses)
    assert got.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert got.perplexity == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("max_tokens", [1, 40, 10**6])
def test_packed_rows_give_each_record_the_score_of_padded_ones(family, dtype, max_tokens):
    model = LanguageModel(tiny.base_model(family).to(dtype), LoraSettings(r=2, alpha=4))
    adapter, units = adapter_of(model), [*tiny.ragged_units(4), *tiny.masked_units(4)]
    population = Population.of({f"u{i}": [r.tolist() for r in u] for i, u in enumerate(units)})
    sizes = {"seq_len": 12, "max_tokens": max_tokens}
    padded = evaluate(model, adapter, population, **sizes)
    model.pack(True)
    seen = []
    scores = model.token_scores
    model.token_scores = lambda given, batch: seen.append(batch.stack) or scores(given, batch)
    got = evaluate(model, adapter, population, **sizes)
    assert got.tokens == padded.tokens
    error = 1e-5 if dtype == torch.float32 else 2e-2
    np.testing.assert_allclose(got.records.losses, padded.records.losses, rtol=error)
    assert len(set(padded.records.losses.round(2))) > 8  # no record has another's score
    assert all(isinstance(stack, PackedStack) for stack in seen)
    assert sum(len(stack.records) for stack in seen) == len(got.records.losses)


def test_the_next_stack_is_queued_before_the_last_ones_losses_are_waited_for(monkeypatch):
    """And the copy of the losses before the next stack, behind which it would arrive later."""
    model, seen = tiny.language_model(), []
    scores = model.token_scores

    def queued(*given):
        seen.append("stack")
        return scores(*given)

    def reached(device):
        seen.append("copy")
        return lambda: seen.append("wait")

    monkeypatch.setattr(model, "token_scores", queued)
    monkeypatch.setattr(device_batches, "reached", reached)
    evaluate(model, model.initial, tiny.people(5), seq_len=20, max_tokens=40)
    assert seen.count("stack") > 3
    middle = ["stack", "copy", "wait"] * (seen.count("stack") - 1)
    assert seen == ["stack", "copy", *middle, "wait"]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_tokens_of_a_prompt_are_read_but_not_scored(family):
    units = tiny.masked_units(5)
    population = Population.of({f"u{i}": [r.tolist() for r in u] for i, u in enumerate(units)})
    model = tiny.language_model(family)
    adapter = adapter_of(model)
    losses = plain_losses(family, adapter, cut_records(population, 12))
    got = evaluate(model, adapter, population, seq_len=12, max_tokens=40)
    assert got.tokens == len(losses)
    assert got.loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_tokens_weigh_the_same_whatever_the_length_of_their_record():
    model = tiny.language_model()
    population = Population.of({"long": [list(range(1, 16))], "short": [[3, 4]]})
    losses = plain_losses("gpt2", model.initial, cut_records(population, 16))
    got = evaluate(model, model.initial, population, seq_len=16, max_tokens=64)
    assert got.loss == pytest.approx(np.mean(losses), rel=1e-5)
    per_record = (np.mean(losses[:-1]) + losses[-1]) / 2
    assert got.loss != pytest.approx(per_record, rel=1e-3)


@pytest.mark.parametrize("max_tokens", [1, 33, 10**6])
def test_the_loss_does_not_depend_on_the_size_of_a_stack(max_tokens):
    model, population = tiny.language_model(), tiny.people(5)
    wanted = evaluate(model, model.initial, population, seq_len=20, max_tokens=100)
    got = evaluate(model, model.initial, population, seq_len=20, max_tokens=max_tokens)
    assert got.tokens == wanted.tokens
    assert got.loss == pytest.approx(wanted.loss, rel=1e-5)


def test_max_records_scores_the_first_records_only():
    model, population = tiny.language_model(), tiny.people(5)
    losses = plain_losses("gpt2", model.initial, cut_records(population, 20)[:3])
    got = evaluate(model, model.initial, population, seq_len=20, max_tokens=100, max_records=3)
    assert got.tokens == len(losses)
    assert got.loss == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize(
    "users", [{}, {"a": []}, {"a": [[5]], "b": [[]]}, {"a": [[1, ~2], [*[~1] * 8, 2]]}]
)
def test_a_population_without_a_token_to_predict_is_refused(users):
    model = tiny.language_model()
    with pytest.raises(ValueError, match="no token to predict"):
        evaluate(model, model.initial, Population.of(users), seq_len=8, max_tokens=8)


def test_evaluation_changes_neither_the_adapter_nor_the_base_model():
    model, population = tiny.language_model(), tiny.people(3)
    adapter = adapter_of(model)
    before = adapter.clone()
    first = evaluate(model, adapter, population, seq_len=9, max_tokens=50)
    again = evaluate(model, adapter, population, seq_len=9, max_tokens=50)
    assert first == again
    assert torch.equal(adapter, before)
    assert not any(parameter.requires_grad for parameter in model.module.parameters())


def plain_hits(family, adapter, records):
    """Oracle: peft, one record at a time; whether each predicted token is the likeliest."""
    adapted, hits = plain(family, adapter), []
    for record in records:
        with torch.no_grad():
            logits = adapted(input_ids=torch.tensor(record)[None]).logits[0, :-1]
        hits += (logits.argmax(1) == torch.tensor(record[1:])).tolist()
    return hits


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("packed", [False, True])
def test_accuracy_and_bits_are_those_of_plain_peft(family, packed):
    model = tiny.language_model(family)
    model.pack(packed)
    population = learnable()
    adapter = adapter_of(model)
    records = cut_records(population, 12)
    hits = plain_hits(family, adapter, records)
    got = evaluate(model, adapter, population, seq_len=12, max_tokens=40, text_bytes=1234)
    assert got.token_accuracy == pytest.approx(np.mean(hits))
    assert 0 < np.mean(hits) < 1
    losses = plain_losses(family, adapter, records)
    assert got.bits_per_byte == pytest.approx(np.sum(losses) / math.log(2) / 1234, rel=1e-5)
    logged = got.metrics("_before")
    assert logged["heldout_token_accuracy_before"] == got.token_accuracy
    assert logged["heldout_bits_per_byte_before"] == got.bits_per_byte


def test_without_a_count_of_bytes_there_are_no_bits_per_byte():
    model = tiny.language_model("gpt2")
    got = evaluate(model, model.initial, tiny.people(3), seq_len=12, max_tokens=40)
    assert got.bits_per_byte is None
    assert "heldout_bits_per_byte" not in got.metrics()


def learnable():
    """Users whose records a tiny model predicts now and then: half are its own guesses."""
    base = tiny.base_model("gpt2").eval()
    users = {}
    for number, unit in enumerate(tiny.ragged_units(6)):
        records = []
        for record in unit:
            ids = torch.as_tensor(record)[None]
            with torch.no_grad():
                guess = base(input_ids=ids).logits[0].argmax(1)
            records.append([*record.tolist(), int(guess[-1])])
        users[f"u{number}"] = records
    return Population.of(users)
