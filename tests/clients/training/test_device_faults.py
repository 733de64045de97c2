"""Rounds on a GPU that is not there: no tensor elsewhere, no hidden wait, no other precision."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from helpers import tiny, tiny_classes
from helpers.absent_gpu import GPU, Far, absent_gpu
from helpers.cohort_sums import relative_error, setting
from helpers.gpu_rules import HiddenWaitError, WrongDeviceError, WrongDtypeError
from userdp.clients.batching import device_batches
from userdp.clients.evaluation import heldout
from userdp.clients.models import acceleration, chunked_loss, isolation_probe, replica
from userdp.clients.models import stacked_lora as lora
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.clients.training import block_gradient, clipping, cohort_update, memory
from userdp.clients.training.memory import EngineSettings
from userdp.server.mechanisms.adaptive_clip import AdaptiveClip
from userdp.server.mechanisms.concentrated.mechanism import Concentrated
from userdp.server.mechanisms.group_privacy import GroupPrivacy
from userdp.server.mechanisms.matrix_factorization.mechanism import MatrixFactorization
from userdp.server.mechanisms.non_private import NonPrivate
from userdp.server.mechanisms.user_wise import UserWise

FAMILIES = ["gpt2", "llama", "qwen2", "qwen3", "gemma2", "gemma3", "opt"]
# Of a round's sum on the absent GPU from that on the CPU: other shapes and chunks round otherwise.
ERROR = {torch.float32: 1e-6, torch.bfloat16: 2e-2}
UNITS = tiny.ragged_units(4, longest=12)
# Every round has so many waits: the counts of the units, behind which all else has arrived.
WAITS = 1


def summed(model, adapter, units=UNITS, *, steps=1, engine=None, **options):
    """A round's sum on the model's device."""
    local = cohort_update.LocalTraining(steps=steps, lr=0.3)
    engine = engine or EngineSettings(max_tokens=96, max_lanes=3)
    options = {"clip_norm": 0.5} | options
    if "scale" in options:
        options["scale"] = torch.full_like(adapter, options["scale"])
    return cohort_update.cohort_sum(
        model, adapter.to(model.device), units, local=local, engine=engine, **options
    )


def compare(model, adapter, gpu, **options):
    """A round on an absent GPU keeps the rules, and gives what it gives on the CPU."""
    wanted = summed(model, adapter, **options)
    there = replica.replica(model, GPU, {})
    before = len(gpu.waits)
    got = summed(there, adapter.to(GPU), **options)
    assert len(gpu.waits) - before == WAITS
    assert relative_error(got.total, wanted.total) < ERROR[model.module.dtype]
    assert got.figures == pytest.approx(wanted.figures, rel=1e-2)
    assert got.unclipped_bits == wanted.unclipped_bits
    return got, wanted


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_round_of_every_family(family, dtype):
    model, adapter = setting(family, dtype)
    with absent_gpu() as gpu:
        compare(model, adapter, gpu)
        assert gpu.launches > 500


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
@pytest.mark.parametrize("steps", [1, 2])
def test_with_packed_rows(family, dtype, steps):
    """A replica keeps the way rows are laid."""
    model, adapter = setting(family, dtype)
    model.pack(True)
    with absent_gpu() as gpu:
        compare(model, adapter, gpu, steps=steps)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_with_checkpointing(family):
    model, adapter = setting(family, torch.bfloat16)
    acceleration.checkpoint(model.module, True)
    with absent_gpu() as gpu:
        compare(model, adapter, gpu)


@pytest.mark.parametrize("steps", [1, 2])
def test_with_the_shapes_and_the_held_adapters_of_cuda_graphs(steps):
    model, adapter = setting("llama")
    model.graphs = True
    with absent_gpu() as gpu:
        compare(model, adapter, gpu, steps=steps)


@pytest.mark.slow
@pytest.mark.trust
@pytest.mark.parametrize(
    ("family", "dtype", "checkpointing"),
    [("gpt2", torch.bfloat16, True), ("llama", torch.float32, False)],
)
def test_with_compiled_layers(family, dtype, checkpointing):
    """The captured graphs are run operation by operation; inductor needs a GPU that is there."""
    model, adapter = setting(family, dtype)
    acceleration.checkpoint(model.module, checkpointing)
    with absent_gpu() as gpu:
        there = replica.replica(model, GPU, {})
        acceleration.compile_layers(there.module, True, backend="eager")
        got = summed(there, adapter.to(GPU))
        assert len(gpu.waits) == WAITS
    assert relative_error(got.total, summed(model, adapter).total) < ERROR[dtype]
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 2},
        {"keep_rows": True},
        {"keep_rows": True, "grid": 2.0**-20},
        {"count_unclipped": True, "clip_norm": 0.1},
        {"scale": 0.5},
        {"clip_norm": float("inf")},
    ],
)
def test_a_round_of_every_contract(options):
    model, adapter = setting()
    with absent_gpu() as gpu:
        got, wanted = compare(model, adapter, gpu, **options)
    if "keep_rows" in options:
        assert np.abs(got.rows - wanted.rows).max() <= 2.0**-19
        assert np.linalg.norm(got.rows, axis=1).min() > 0.01


def test_failed_units_are_left_out_without_a_look_at_them():
    model, adapter = setting()
    units = [*UNITS[:2], [], [np.array([1, tiny.VOCABULARY])], *UNITS[2:]]
    adapter = adapter.clone()
    with absent_gpu() as gpu:
        got, _ = compare(model, adapter, gpu, units=units, keep_rows=True)
        assert got.figures["failed_units"] == 1
        broken = adapter.clone()
        broken[0] = torch.inf
        got = summed(replica.replica(model, GPU, {}), broken, keep_rows=True)
    assert got.figures["failed_units"] == len(UNITS)
    assert got.rows.shape == (0, len(adapter))


@pytest.mark.parametrize("family", ["gpt2", "roberta"])
def test_a_round_of_a_classifier(family):
    settings = LoraSettings(r=2, alpha=4)
    model = LanguageModel(tiny_classes.base_model(family), settings, tiny_classes.CLASSES)
    units = tiny.ragged_units(4, longest=12)
    for record in (record for unit in units for record in unit):
        record[:-1], record[-1] = ~record[:-1], record[-1] % tiny_classes.CLASSES
    with absent_gpu() as gpu:
        compare(model, model.initial, gpu, units=units)


@pytest.mark.parametrize("keep_rows", [False, True])
def test_several_gpus_queue_their_blocks_without_waiting_for_them(keep_rows):
    model, adapter = setting("llama")
    units = tiny.ragged_units(10, longest=12)
    wanted = summed(model, adapter, units, keep_rows=True)
    with absent_gpu() as gpu:
        models = [replica.replica(model, torch.device("cuda", index), {}) for index in range(2)]
        engine = EngineSettings(max_tokens=96, max_lanes=2, models=models)
        got = summed(models[0], adapter.to(GPU), units, engine=engine, keep_rows=keep_rows)
        assert not gpu.waits  # what is read has arrived with the event behind it
    assert relative_error(got.total, wanted.total) < 1e-6
    assert got.rows is None or len(got.rows) == len(units)


PUBLIC = {"users": 6, "cohort": 3, "records_per_user": 2, "clip_norm": 0.05}
NOISED = {**PUBLIC, "noise_multiplier": 1.2}
MECHANISMS = {
    "user_wise": lambda: UserWise(**NOISED),
    "adaptive clip": lambda: UserWise(**NOISED, adaptive=AdaptiveClip(bit_noise=2.0)),
    "group_privacy": lambda: GroupPrivacy(**NOISED),
    "matrix_factorization": lambda: MatrixFactorization(**NOISED, rounds=4),
    "concentrated": lambda: Concentrated(**{**NOISED, "cohort": 6}, min_weight=4, test_share=0.5),
    "non_private": lambda: NonPrivate(**PUBLIC),
}


@functools.cache
def whole_model():
    return setting("llama")[0]


@pytest.mark.parametrize("name", MECHANISMS)
def test_rounds_of_every_strategy(tmp_path, name):
    """Server, messages, node and noise included: the same adapter as on the CPU."""
    adapters = {}
    with absent_gpu() as gpu:
        for device in ("cpu", "cuda:0"):
            folder = tmp_path / device
            folder.mkdir()
            model = replica.replica(whole_model(), torch.device(device), {})
            run = tiny.federation(folder, MECHANISMS[name](), tiny.people(6), model=model)
            adapters[device] = run.run(2)
        assert gpu.launches > 500
    np.testing.assert_allclose(adapters["cuda:0"], adapters["cpu"], rtol=1e-5, atol=1e-8)


def test_what_surrounds_the_rounds_runs_there_too():
    """Sizes from free memory, isolation probe, evaluation: devices are checked, waits are not."""
    base = tiny.base_model("llama")
    wanted = LanguageModel(tiny.base_model("llama"), LoraSettings(r=2, alpha=4))
    people, sizes = tiny.people(3), {"seq_len": 16, "max_tokens": 64}
    with absent_gpu():
        model = LanguageModel(base.to(GPU), LoraSettings(r=2, alpha=4))
        assert model.device == GPU
        assert isinstance(next(model.module.parameters()), Far)
        assert memory.fitted(model, 16, None, None).max_lanes == memory.MAX_LANES["cuda"]
        assert isolation_probe.probe(model, 12).rounding < 1e-4
        got = heldout.evaluate(model, model.initial.to(GPU), people, **sizes)
        assert model.base_digest() == wanted.base_digest()
    assert got.loss == pytest.approx(heldout.evaluate(wanted, wanted.initial, people, **sizes).loss)


# Faults that are planted; each takes ``monkeypatch`` and changes product code.


def clip_norm_on_the_cpu(patch):
    sums = clipping.clipped_sum

    def clip(rows, clip_norm):
        return sums(rows / torch.full((len(rows), 1), clip_norm), 1.0)

    patch.setattr(clipping, "clipped_sum", clip)


def batch_on_the_cpu(patch):
    load = device_batches.load
    patch.setattr(
        device_batches, "load", lambda stack, _, pad: load(stack, torch.device("cpu"), pad)
    )


def item_in_a_block(patch):
    down = lora._down

    def watched(x, factor, scale):
        return down(x, factor, scale * float(factor.abs().max().item() > 0))

    patch.setattr(lora, "_down", watched)


def waiting_gradients(read):
    def plant(patch):
        gradients = LanguageModel.gradients

        def waiting(self, *args):
            rows, loss = gradients(self, *args)
            read(rows)
            return rows, loss

        patch.setattr(LanguageModel, "gradients", waiting)

    return plant


def pageable_batch(patch):
    patch.setattr(torch.Tensor, "pin_memory", lambda tensor, *_: tensor.clone())


def float64_head(patch):
    def logits(self, hidden):
        return (hidden.double() @ self.weight.double().mT).to(hidden.dtype)

    patch.setattr(chunked_loss.Head, "logits", logits)


def float32_factors(patch):
    """A product in float32 where the base model has bfloat16."""
    down = lora._down

    def wide(x, factor, scale):
        return down(x.float(), factor.float(), scale).to(x.dtype)

    patch.setattr(lora, "_down", wide)


def narrow_sum(patch):
    sums = clipping.clipped_sum

    def narrow(rows, clip_norm):
        found = sums(rows, clip_norm)
        return clipping.ClippedSum(found.total.float(), found.norms, found.unclipped, found.factors)

    patch.setattr(clipping, "clipped_sum", narrow)


def bfloat16_gradients(patch):
    added_up = block_gradient.added_up

    def narrow(*given):
        rows, loss = added_up(*given)
        return rows.bfloat16(), loss

    patch.setattr(block_gradient, "added_up", narrow)


@pytest.mark.parametrize(
    ("plant", "error"),
    [
        (clip_norm_on_the_cpu, WrongDeviceError),
        (batch_on_the_cpu, WrongDeviceError),
        (item_in_a_block, HiddenWaitError),
        (waiting_gradients(lambda rows: rows.cpu()), HiddenWaitError),
        (waiting_gradients(lambda rows: rows.sum(1).tolist()), HiddenWaitError),
        (waiting_gradients(lambda rows: rows[rows.isfinite().all(1)]), HiddenWaitError),
        (waiting_gradients(torch.nonzero), HiddenWaitError),
        (waiting_gradients(lambda rows: torch.equal(rows, rows)), HiddenWaitError),
        (waiting_gradients(lambda rows: bool(rows.any())), HiddenWaitError),
        (waiting_gradients(lambda rows: rows.numpy()), WrongDeviceError),
        (waiting_gradients(lambda rows: rows[:, torch.arange(2)]), WrongDeviceError),
        (waiting_gradients(lambda rows: torch.tensor([1.0], device=rows.device)), HiddenWaitError),
        (pageable_batch, HiddenWaitError),
        (float64_head, WrongDtypeError),
        (float32_factors, WrongDtypeError),
        (narrow_sum, WrongDtypeError),
        (bfloat16_gradients, WrongDtypeError),
    ],
)
def test_a_planted_fault_is_found(monkeypatch, plant, error):
    model, adapter = setting("llama", torch.bfloat16)
    with pytest.raises(error), absent_gpu():  # noqa: PT012 - the round alone can raise it
        there = replica.replica(model, GPU, {})
        plant(monkeypatch)
        summed(there, adapter.to(GPU))


def test_a_value_that_is_read_before_it_arrives_is_not_there():
    with absent_gpu() as gpu:
        value = torch.ones(3, device=GPU)
        copied = value.to("cpu", non_blocking=True)
        assert copied.isnan().all()
        gpu.wait("a test", 0)
        assert copied.tolist() == [1.0, 1.0, 1.0]


def test_the_gpu_is_gone_when_the_context_closes():
    with absent_gpu():
        assert torch.zeros(2, device=GPU).is_cuda
    with pytest.raises((RuntimeError, AssertionError, NotImplementedError)):
        torch.zeros(2, device=GPU)
    assert torch.zeros(2, device="meta").is_meta
    assert not isinstance(torch.empty(2, device="meta"), Far)
