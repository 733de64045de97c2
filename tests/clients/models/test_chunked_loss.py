"""Value and gradient of the chunked loss are those of torch's cross entropy over all logits."""

from __future__ import annotations

import pytest
import torch

from userdp.clients.models import chunked_loss


def case(rows=23, width=8, vocabulary=31, dtype=torch.float32, bias=True, factor=1.0, cap=None):
    source = torch.Generator().manual_seed(3)
    hidden = torch.randn(rows, width, generator=source).to(dtype)
    weight = torch.randn(vocabulary, width, generator=source).to(dtype)
    offset = torch.randn(vocabulary, generator=source).to(dtype) if bias else None
    targets = torch.randint(vocabulary, (rows,), generator=source)
    weights = torch.rand(rows, generator=source)
    return hidden, chunked_loss.Head(weight, offset, factor, cap), targets, weights


def by_autograd(hidden, head, targets, weights):
    """Oracle: all logits at once, in float64."""
    leaf = hidden.double().requires_grad_()
    logits = leaf @ head.weight.double().T + (0 if head.bias is None else head.bias.double())
    logits = logits * head.factor
    if head.cap is not None:
        logits = torch.tanh(logits / head.cap) * head.cap
    nll = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    total = weights.double() @ nll
    return total.detach(), nll.detach(), torch.autograd.grad(total, leaf)[0]


def by_head_loss(hidden, *rest, scale=1.0):
    leaf = hidden.clone().requires_grad_()
    total, nll = chunked_loss.head_loss(leaf, *rest)
    return total.detach(), nll, torch.autograd.grad(scale * total, leaf)[0]


@pytest.mark.parametrize("chunk", [1, 31, 100, 1 << 22])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("factor", "cap"), [(1.0, None), (0.3, None), (1.0, 2.0), (0.7, 3.0)])
def test_value_and_gradient_equal_autograd_for_every_chunk_size(
    chunk, bias, factor, cap, monkeypatch
):
    monkeypatch.setattr(chunked_loss, "_CHUNK_LOGITS", {"cpu": chunk})
    monkeypatch.setattr(chunked_loss, "_CHUNK_ROWS", 1)
    inputs = case(bias=bias, factor=factor, cap=cap)
    for got, wanted in zip(by_head_loss(*inputs), by_autograd(*inputs), strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=2e-5, atol=2e-6)


def test_half_precision_weights_give_the_same_to_their_own_precision():
    inputs = case(dtype=torch.bfloat16)
    got, wanted = by_head_loss(*inputs), by_autograd(*inputs)
    assert got[1].dtype == torch.float32
    torch.testing.assert_close(got[1].double(), wanted[1], rtol=0.02, atol=0.05)
    torch.testing.assert_close(got[2].double(), wanted[2], rtol=0.05, atol=0.02)


def test_a_row_of_weight_zero_has_a_loss_and_no_gradient():
    hidden, head, targets, weights = case()
    weights[::2] = 0
    _, nll, gradient = by_head_loss(hidden, head, targets, weights)
    assert (nll > 0).all()
    assert gradient[::2].abs().max() == 0
    assert gradient[1::2].abs().sum(1).min() > 0


def test_the_gradient_scales_with_the_factor_of_the_total():
    inputs = case()
    torch.testing.assert_close(by_head_loss(*inputs, scale=-3.0)[2], -3 * by_head_loss(*inputs)[2])


def test_without_a_gradient_the_losses_are_the_same():
    inputs = case()
    with torch.no_grad():
        total, nll = chunked_loss.head_loss(*inputs)
    wanted = by_head_loss(*inputs)
    assert torch.equal(nll, wanted[1])
    assert torch.equal(total, wanted[0])


def test_logits_too_large_for_an_exponential_stay_finite():
    hidden, head, targets, weights = case()
    got = by_head_loss(hidden * 1e4, head, targets, weights)
    assert all(torch.isfinite(part).all() for part in got)
