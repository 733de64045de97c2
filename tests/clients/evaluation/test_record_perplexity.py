"""Record perplexities are those of the public base model alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from helpers import tiny
from userdp.clients.evaluation import record_perplexity
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.server.mechanisms.user_wise import UserWise
from userdp.sim.data.population import Population

SHAPE = {"seq_len": 12, "max_tokens": 50}


def masked_people():
    units = tiny.masked_units(6, seed=2)
    return Population.of({f"u{i}": [r.tolist() for r in u] for i, u in enumerate(units)})


def slow_score(family, record):
    """Oracle: the plain model on one record, without labels for tokens that are not learned."""
    signed = torch.tensor(record[:12].astype(np.int64))[None]
    if not (signed[:, 1:] >= 0).any():
        return np.nan
    ids = torch.where(signed < 0, ~signed, signed)
    labels = torch.where(signed < 0, -100, signed)
    with torch.no_grad():
        return float(tiny.base_model(family)(input_ids=ids, labels=labels).loss.exp())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("population", [tiny.people(6), masked_people()], ids=["plain", "prompts"])
def test_scores_equal_the_plain_models_one_record_at_a_time(family, population):
    got = record_perplexity.scores(tiny.language_model(family), population, **SHAPE)
    stored = np.split(population.tokens, population.record_offsets[1:-1])
    wanted = [slow_score(family, record) for record in stored]
    np.testing.assert_allclose(got, wanted, rtol=1e-4)
    assert got.dtype == np.float32


def test_scores_are_in_the_order_of_the_stored_records_whoever_owns_them():
    population = Population(
        tokens=np.array([1, 2, 3, 4, 5, 6, 7], np.int32),
        record_offsets=np.array([0, 2, 5, 7]),
        user_records=np.array([2, 0, 1]),
        user_offsets=np.array([0, 1, 3]),
        user_keys=np.array([1, 2], np.uint64),
    )
    got = record_perplexity.scores(tiny.language_model(), population, **SHAPE)
    wanted = [slow_score("gpt2", np.array(r)) for r in ([1, 2], [3, 4, 5], [6, 7])]
    np.testing.assert_allclose(got, wanted, rtol=1e-4)
    scored = dataclasses.replace(population, perplexity=got)
    assert scored.perplexities(0).tolist() == [got[2]]
    assert scored.perplexities(1).tolist() == [got[0], got[1]]


def test_scores_do_not_depend_on_other_users_to_the_last_bit():
    model, records = tiny.language_model(), [r.tolist() for r in tiny.ragged_units(1, 7, 30)[0]]
    alone = record_perplexity.scores(model, Population.of({"ada": records}), **SHAPE)
    others = {f"u{i}": [r.tolist() for r in u] for i, u in enumerate(tiny.ragged_units(9))}
    together = record_perplexity.scores(model, Population.of({"ada": records, **others}), **SHAPE)
    assert together[: len(records)].tolist() == alone.tolist()


def test_records_that_cannot_be_scored_have_the_score_nan():
    records = [[5], [1, 2], [1, tiny.VOCABULARY], [~tiny.VOCABULARY, 1], [1, ~2], [*[~1] * 12, 3]]
    got = record_perplexity.scores(tiny.language_model(), Population.of({"a": records}), **SHAPE)
    assert np.isnan(got).tolist() == [True, False, True, True, True, True]


def test_scores_do_not_change_with_training(tmp_path):
    model = LanguageModel(tiny.base_model("gpt2"), LoraSettings(r=2, alpha=4))
    public = {"users": 6, "cohort": 6, "clip_norm": 1.0, "noise_multiplier": 0.1}
    population = tiny.people(6)
    before, digest = record_perplexity.scores(model, population, **SHAPE), model.base_digest()
    run = tiny.federation(tmp_path, UserWise(records_per_user=2, **public), population, model=model)
    assert np.abs(run.run(3) - model.initial.numpy()).max() > 0.01
    assert record_perplexity.scores(model, population, **SHAPE).tolist() == before.tolist()
    assert model.base_digest() == digest
