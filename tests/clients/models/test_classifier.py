"""Classification trains adapter and head of each unit exactly as plain peft does for it alone."""

from __future__ import annotations

import copy

import numpy as np
import peft
import pytest
import torch

from helpers import cohort_sums, lanes, tiny_classes
from helpers.cohort_sums import relative_error
from helpers.tiny_classes import CLASSES, DECODERS, ENCODERS, FAMILIES
from userdp.clients.batching import packing
from userdp.clients.evaluation.heldout import evaluate
from userdp.clients.models import export
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.clients.training import cohort_update
from userdp.clients.training.memory import EngineSettings
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.data.population import Population


def peft_update(model, family, adapter, unit, steps=1, lr=1.0):
    """Oracle: one unit alone, plain peft, one text at a time, torch.optim.SGD."""
    adapted = tiny_classes.plain(model, family, adapter)
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        for record in unit:
            text, label = tiny_classes.parts(record)
            (adapted(input_ids=text, labels=label).loss / len(unit)).backward()
        optimizer.step()
    after = peft.get_peft_model_state_dict(adapted)
    return torch.cat([after[name].flatten() for name, _ in model.layout.shapes]) - adapter


def head_mask(model):
    """(D,) bool: which parameters are the head's."""
    mask = torch.zeros(model.layout.size, dtype=torch.bool)
    for (name, _), (part, _) in zip(model.layout.shapes, model.layout.parts(), strict=True):
        mask[part] = ".lora_" not in name
    return mask


@pytest.mark.parametrize("max_tokens", [1, 50])
@pytest.mark.parametrize("family", DECODERS + ENCODERS)
def test_a_units_update_equals_plain_peft_alone(family, max_tokens):
    model = tiny_classes.classifier(family)
    adapter, units, head = tiny_classes.moved(model), tiny_classes.units(5), head_mask(model)
    got, _ = lanes.block_updates(model, adapter, units, cohort_update.LocalTraining(), max_tokens)
    for row, unit in zip(got, units, strict=True):
        wanted = peft_update(model, family, adapter, unit)
        assert relative_error(row[head], wanted[head]) < 1e-5
        assert relative_error(row[~head], wanted[~head]) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_local_steps_equal_plain_sgd_alone(family):
    model = tiny_classes.classifier(family)
    adapter, units = tiny_classes.moved(model), tiny_classes.units(4)
    local = cohort_update.LocalTraining(steps=3, lr=0.3)
    got, _ = lanes.block_updates(model, adapter, units, local, max_tokens=64)
    for row, unit in zip(got, units, strict=True):
        assert relative_error(row, peft_update(model, family, adapter, unit, 3, 0.3)) < 1e-4


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("gpt2", ["score.weight"]),
        ("llama", ["score.weight"]),
        (
            "roberta",
            [f"classifier.{p}.{w}" for p in ("dense", "out_proj") for w in ("weight", "bias")],
        ),
    ],
)
def test_the_whole_head_is_trained_from_its_first_values_and_no_lora_is_in_it(family, names):
    model, base = tiny_classes.classifier(family), tiny_classes.base_model(family)
    shapes = dict(model.layout.shapes)
    head = [name for name in shapes if ".lora_" not in name]
    assert head == [f"base_model.model.{name}" for name in names]
    assert not [
        name for name in shapes if ".lora_" in name and (".score." in name or "classif" in name)
    ]
    initial = model.layout.named(model.initial.numpy())
    for name in names:
        wanted = base.get_parameter(name).detach().numpy()
        np.testing.assert_array_equal(initial[f"base_model.model.{name}"], wanted)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("clip_norm", [0.05, 1e9])
def test_the_sum_does_not_depend_on_stacks_lanes_or_order(family, clip_norm):
    model, units = tiny_classes.classifier(family), tiny_classes.units(12)
    cohort_sums.check_the_same_for_any_engine(model, tiny_classes.moved(model), units, clip_norm)


@pytest.mark.parametrize("family", DECODERS + ENCODERS)
def test_a_units_update_does_not_depend_on_its_neighbours_or_their_padding(family):
    model = tiny_classes.classifier(family)
    adapter, local = tiny_classes.moved(model), cohort_update.LocalTraining()
    unit, *others = tiny_classes.units(7)
    strangers = tiny_classes.units(6, seed=9, longest=40)
    first, _ = lanes.block_updates(model, adapter, [unit, *others], local, 10**6)
    second, _ = lanes.block_updates(model, adapter, [unit, *strangers], local, 10**6)
    assert relative_error(first[0], second[0]) < 1e-5


@pytest.mark.parametrize("family", DECODERS + ENCODERS)
def test_the_class_is_never_read(family):
    """Behind a short text in a padded stack, where it stands among what the model could see."""
    model = tiny_classes.classifier(family)
    adapter, [short] = tiny_classes.moved(model), tiny_classes.units(1, longest=3)[:1]
    long = np.append(~np.arange(3, 19), 0)
    logits = []
    for label in range(CLASSES):
        short[0][-1] = label
        [stack] = packing.stacks([[short[0]], [long]], 10**6)
        logits.append(model.class_logits(adapter, model.load(stack))[0])
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_logits_are_those_of_plain_peft(family):
    model = tiny_classes.classifier(family)
    adapter, units = tiny_classes.moved(model), tiny_classes.units(4)
    oracle = tiny_classes.plain(model, family, adapter)
    records = [record for unit in units for record in unit]
    [stack] = packing.stacks([[record] for record in records], 10**6)
    got, classes = model.class_logits(adapter, model.load(stack))
    assert classes.tolist() == [int(records[lane][-1]) for lane in stack.lanes]
    for row, lane in zip(got, stack.lanes, strict=True):
        with torch.no_grad():
            [wanted] = oracle(input_ids=tiny_classes.parts(records[lane])[0]).logits
        torch.testing.assert_close(row, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_clip_covers_head_and_adapter_together(family):
    """Each alone is below C; together they are above it, and one factor scales both."""
    model, head = tiny_classes.classifier(family), head_mask(tiny_classes.classifier(family))
    adapter, local = tiny_classes.moved(model), cohort_update.LocalTraining()
    [unit] = tiny_classes.units(1)
    [row] = lanes.block_updates(model, adapter, [unit], local, 10**6)[0]
    clip_norm = float(max(row[head].norm(), row[~head].norm())) * 1.001
    assert row.norm() > clip_norm
    options = {"local": local, "engine": EngineSettings()}
    got = cohort_update.cohort_sum(model, adapter, [unit], clip_norm=clip_norm, **options).total
    assert float(np.linalg.norm(got)) == pytest.approx(clip_norm, rel=1e-6)
    wanted = row.double() * clip_norm / row.double().norm()
    torch.testing.assert_close(torch.from_numpy(got), wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_peft_loads_the_exported_folder_with_its_head(family, tmp_path):
    model = tiny_classes.classifier(family)
    adapter = tiny_classes.moved(model)
    export.save(model, adapter.numpy(), tmp_path, base="some/base")
    base = tiny_classes.base_model(family)
    fresh = {n: p for n, p in base.named_parameters() if "score" in n or "classifier" in n}
    for parameter in fresh.values():  # as a base without a head: nothing of it may be needed
        parameter.data.normal_(generator=torch.Generator().manual_seed(8))
    loaded = peft.PeftModel.from_pretrained(base, str(tmp_path)).eval()
    records = [record for unit in tiny_classes.units(4) for record in unit]
    [stack] = packing.stacks([[record] for record in records], 10**6)
    got, _ = model.class_logits(adapter, model.load(stack))
    texts = [tiny_classes.parts(records[lane])[0][0] for lane in stack.lanes]
    padded = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=1)
    with torch.no_grad():
        wanted = loaded(input_ids=padded, attention_mask=(padded != 1).long()).logits
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_accuracy_and_loss_are_those_of_one_text_at_a_time(family):
    model, people = tiny_classes.classifier(family), tiny_classes.people(12)
    adapter = tiny_classes.moved(model)
    oracle, losses, right, classes = tiny_classes.plain(model, family, adapter), [], [], []
    for record in (r for user in range(12) for r in people.records(user)):
        text, label = tiny_classes.parts(record)
        with torch.no_grad():
            logits = oracle(input_ids=text).logits
        losses.append(float(torch.nn.functional.cross_entropy(logits, label)))
        right.append(int(logits.argmax()) == int(label))
        classes.append(int(label))
    for max_tokens in (1, 70, 10**6):
        got = evaluate(model, adapter, people, seq_len=21, max_tokens=max_tokens)
        assert got.tokens == len(losses)
        assert got.loss == pytest.approx(np.mean(losses), rel=1e-5)
        assert got.accuracy == np.mean(right)
        assert got.majority == max(classes.count(c) for c in range(CLASSES)) / len(classes)
    assert 0 < np.mean(right) < 1
    assert got.headline == ("accuracy", got.accuracy)
    assert got.metrics("_before").keys() == {"heldout_accuracy_before", "heldout_loss_before"}


def test_an_evaluation_with_higher_accuracy_is_better_whatever_its_loss():
    people = tiny_classes.people(3)
    model = tiny_classes.classifier()
    scored = evaluate(model, model.initial, people, seq_len=21, max_tokens=100)
    kind = type(scored)
    low, high = (kind(loss=s, tokens=1, accuracy=a) for a, s in ((0.4, 0.1), (0.5, 0.9)))
    assert high.better_than(low)
    assert not low.better_than(high)
    assert kind(loss=0.1, tokens=1).better_than(kind(loss=0.2, tokens=1))


def test_an_encoder_that_ignores_its_mask_is_refused(monkeypatch):
    base = tiny_classes.base_model("roberta")
    forward = base.forward
    monkeypatch.setattr(base, "forward", lambda attention_mask=None, **inputs: forward(**inputs))
    with pytest.raises(ConfigurationError, match="does not read its text"):
        LanguageModel(base, LoraSettings(r=2, alpha=4), classes=CLASSES)


def test_a_decoder_whose_head_reads_elsewhere_is_refused(monkeypatch):
    base = tiny_classes.base_model("gpt2")
    forward = base.forward
    monkeypatch.setattr(
        base, "forward", lambda input_ids, **more: forward(input_ids[:, :3], **more)
    )
    with pytest.raises(ConfigurationError, match="does not read its text"):
        LanguageModel(base, LoraSettings(r=2, alpha=4), classes=CLASSES)


def test_a_population_without_a_text_is_refused():
    model = tiny_classes.classifier()
    with pytest.raises(ValueError, match="no token to predict"):
        evaluate(model, model.initial, Population.of({"a": [[1]]}), seq_len=8, max_tokens=8)


def test_the_size_of_its_outputs_hides_no_fault_of_a_classifier(monkeypatch):
    """Ten thousand times smaller logits, which an absolute tolerance would take for equal."""
    base = tiny_classes.base_model("roberta")
    forward = base.forward
    base.classifier.out_proj.weight.data *= 1e-4
    base.classifier.out_proj.bias.data *= 1e-4
    LanguageModel(copy.deepcopy(base), LoraSettings(r=2, alpha=4), classes=CLASSES)
    monkeypatch.setattr(base, "forward", lambda attention_mask=None, **inputs: forward(**inputs))
    with pytest.raises(ConfigurationError, match="does not read its text"):
        LanguageModel(base, LoraSettings(r=2, alpha=4), classes=CLASSES)
