"""The loss by Liger's kernel is the chunked one; the kernel itself runs on a GPU or interpreted."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from helpers import tiny, tiny_classes
from helpers.cohort_sums import relative_error, setting
from userdp.clients.batching import packing
from userdp.clients.models import chunked_loss
from userdp.clients.models.chunked_loss import Head
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.clients.training import liger_loss
from userdp.sim.common.errors import ConfigurationError

INSTALLED = all(importlib.util.find_spec(name) for name in ("liger_kernel", "triton"))


def case(dtype=torch.float32, bias=True, cap=None, device="cpu"):
    source = torch.Generator().manual_seed(3)
    hidden, weight = torch.randn(23, 8, generator=source), torch.randn(31, 8, generator=source)
    offset = torch.randn(31, generator=source).to(device, dtype) if bias else None
    targets = torch.randint(31, (23,), generator=source).to(device)
    weights = torch.rand(23, generator=source).to(device)
    weights[::4] = 0
    head = Head(weight.to(device, dtype), offset, 1.0, cap)
    return hidden.to(device, dtype), head, targets, weights


def by(loss, hidden, *rest, scale=1.0):
    leaf = hidden.clone().requires_grad_()
    total, nll = loss(leaf, *rest)
    assert not nll.requires_grad
    return total.detach(), nll, torch.autograd.grad(scale * total, leaf)[0]


def check_equal(inputs, **tolerance):
    """Values and gradient are those of the chunked loss, without a gradient too.

    Raises:
        AssertionError: they are not.
    """
    for got, wanted in zip(
        by(liger_loss.head_loss, *inputs, scale=-3.0),
        by(chunked_loss.head_loss, *inputs, scale=-3.0),
        strict=True,
    ):
        assert got.dtype == wanted.dtype
        torch.testing.assert_close(got, wanted, **tolerance)
    with torch.no_grad():
        total, nll = liger_loss.head_loss(*inputs)
    torch.testing.assert_close(nll, chunked_loss.head_loss(*inputs)[1], **tolerance)
    torch.testing.assert_close(total, inputs[3] @ nll)


def stand_in(_input, weight, target, *, bias, reduction, softcap):
    """What the kernel's forward pass gives, by autograd: losses, and their unweighted gradients."""
    assert reduction == "none"
    with torch.enable_grad():
        leaf = _input.detach().requires_grad_()
        logits = torch.nn.functional.linear(leaf, weight, bias).float()
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        nll = torch.nn.functional.cross_entropy(logits, target, reduction="none")
        gradient = torch.autograd.grad(nll.sum(), leaf)[0] if _input.requires_grad else None
    return nll.detach(), None, None, None, gradient, None, None


@pytest.fixture
def kernel(monkeypatch):
    """Takes the place of Liger's module; what it holds may be changed."""
    module = types.SimpleNamespace(fused_linear_cross_entropy_forward=stand_in)
    monkeypatch.setattr(liger_loss, "_kernel", lambda: module)
    monkeypatch.setattr(liger_loss, "_installed", lambda: True)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return module


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("bias", [True, False])
def test_weights_cap_and_bias_are_those_of_the_chunked_loss(kernel, bias, cap):
    check_equal(case(bias=bias, cap=cap), rtol=1e-5, atol=1e-6)


def test_half_precision_gives_the_same_to_its_own_precision(kernel):
    check_equal(case(dtype=torch.bfloat16), rtol=0.02, atol=0.02)


def test_a_kernel_whose_gradients_are_off_or_averaged_is_caught(kernel):
    def averaged(*arguments, **options):
        nll, *rest, gradient, _, _ = stand_in(*arguments, **options)
        return nll, *rest, None if gradient is None else gradient / len(nll), None, None

    kernel.fused_linear_cross_entropy_forward = averaged
    with pytest.raises(AssertionError):
        check_equal(case(), rtol=1e-5, atol=1e-6)


def test_a_model_takes_the_loss_and_has_the_gradients_of_the_chunked_one(kernel):
    model, adapter = setting("gemma2")  # caps its logits
    [stack] = packing.stacks(tiny.ragged_units(4), 10**6)
    batch = model.load(stack)
    wanted, _ = model.gradients(adapter, batch)
    calls = []
    kernel.fused_linear_cross_entropy_forward = lambda *a, **o: calls.append(a) or stand_in(*a, **o)
    liger_loss.use(model)
    got, _ = model.gradients(adapter, batch)
    assert len(calls) == 1
    assert relative_error(got, wanted) < 1e-5


def refused(model, match):
    with pytest.raises(ConfigurationError, match=rf"engine\.loss=liger: .*{match}.*chunked"):
        liger_loss.use(model)


def test_what_liger_cannot_do_is_refused_by_name(kernel, monkeypatch):
    refused(tiny_classes.classifier("llama"), "linear head")
    base = tiny.base_model("llama")
    head = base.lm_head
    base.lm_head = torch.nn.Sequential(head)
    refused(LanguageModel(base, LoraSettings(r=2, targets=["q_proj"])), "linear head")
    model = LanguageModel(tiny.base_model("llama"), LoraSettings(r=2))
    model.next_token._head = model.next_token.head._replace(factor=0.5)
    refused(model, "multiplies its logits by 0.5")
    with pytest.raises(ValueError, match=r"factor=0\.5"):
        liger_loss.head_loss(*case()[:1], case()[1]._replace(factor=0.5), *case()[2:])
    monkeypatch.delenv("TRITON_INTERPRET")
    refused(LanguageModel(tiny.base_model("llama"), LoraSettings(r=2)), "needs a GPU")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(liger_loss, "_installed", lambda: False)
    refused(LanguageModel(tiny.base_model("llama"), LoraSettings(r=2)), r"userdp\[liger\]")


@pytest.mark.skipif(not (INSTALLED and torch.cuda.is_available()), reason="needs Liger and a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("bias", [True, False])
def test_the_kernel_itself_on_a_gpu(dtype, cap, bias):
    check_equal(case(dtype, bias, cap, device="cuda"), rtol=0.02, atol=0.02)


INTERPRETED = f"""
import importlib.util, torch
spec = importlib.util.spec_from_file_location("here", {__file__!r})
here = importlib.util.module_from_spec(spec)
spec.loader.exec_module(here)
for bias in (True, False):
    here.check_equal(here.case(bias=bias), rtol=1e-4, atol=1e-5)
    here.check_equal(here.case(torch.bfloat16, bias=bias), rtol=0.02, atol=0.02)
"""


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="needs Liger and Triton")
def test_the_kernel_interpreted_on_a_cpu():
    """In a process of its own: Triton reads the variable when it is imported.

    Without a soft cap, which Liger takes for a number of Triton and the interpreter for Python's.
    """
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", INTERPRETED], env=environment, timeout=300)
    assert done.returncode == 0
