"""A quantised layer computes with the weight that its codes and scales stand for, row by row."""

from __future__ import annotations

import pytest
import torch

from helpers.quantized import NF4, layer, library

KINDS = ["int8", "fp8", "nf4"]
DTYPES = [torch.float32, torch.bfloat16]
EPS = {torch.float32: 1e-6, torch.bfloat16: 0.01}  # of an output, relative to its norm


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def weight(out=24, width=64, dtype=torch.float32):
    """Rows of very different sizes, and one large number."""
    values = torch.randn(out, width, generator=source())
    values *= torch.logspace(-3, 2, out)[:, None]
    values[5, 7] = 40
    return values.to(dtype)


def stated_weight(held):
    """(out, in) float64: what codes and scales stand for, read from the bits alone."""
    codes, scale = held.codes, held.scale.double()
    if codes.dtype == torch.int8:
        return codes.double() * scale
    if codes.dtype == torch.uint8:
        byte = codes.flatten().long()
        numbers = torch.tensor(NF4, dtype=torch.float64)[torch.stack([byte >> 4, byte & 15], 1)]
        wide = numbers.view(-1, 64) * scale[:, None]
        return wide.view(held.out_features, held.in_features)
    byte = codes.view(torch.uint8).long()  # e4m3fn: a sign, 4 bits of exponent, 3 of mantissa
    exponent, mantissa = (byte >> 3) & 15, (byte & 7).double() / 8
    small = exponent == 0
    size = torch.where(small, mantissa, 1 + mantissa) * 2.0 ** (exponent.clamp(min=1) - 7)
    return torch.where(byte >> 7 == 1, -size, size) * scale


def check_output_and_gradient(held, rows):
    """Output and gradient are those of the stated weight, in float64.

    Raises:
        AssertionError: they are not.
    """
    x = rows.clone().requires_grad_()
    y = held(x)
    upstream = torch.randn(y.shape, generator=source(2)).to(y.dtype)
    [gradient] = torch.autograd.grad(y, x, upstream)
    assert y.dtype == x.dtype == gradient.dtype
    wide = stated_weight(held)
    wanted = rows.double() @ wide.T
    if held.bias is not None:
        wanted = wanted + held.bias.double()
    pairs = ((y, wanted), (gradient, upstream.double() @ wide))
    for got, right in pairs:
        assert (got.double() - right).norm().item() < EPS[x.dtype] * right.norm().item()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (2, 5)])
@pytest.mark.parametrize("kind", KINDS)
def test_output_and_gradient_are_those_of_the_dequantised_weight_in_float64(
    kind, shape, bias, dtype
):
    held = layer(kind, weight(dtype=dtype), bias)
    rows = torch.randn(*shape, held.in_features, generator=source(1)).to(dtype)
    check_output_and_gradient(held, rows)
    assert torch.equal(held.weight.double().to(dtype), stated_weight(held).to(dtype))


@pytest.mark.parametrize("kind", KINDS)
def test_a_scale_that_is_five_percent_off_is_caught(kind):
    held = layer(kind, weight(), bias=True)
    rows = torch.randn(7, held.in_features, generator=source(1))
    check_output_and_gradient(held, rows)
    wrong = held.forward
    held.forward = lambda x: wrong(x) * 1.05
    with pytest.raises(AssertionError):
        check_output_and_gradient(held, rows)


@pytest.mark.parametrize("dtype", DTYPES)
def test_int8_codes_are_the_nearest_multiples_of_a_255th_of_twice_the_rows_largest(dtype):
    given = weight(dtype=dtype).double()
    held = layer("int8", weight(dtype=dtype))
    step = given.abs().amax(1, keepdim=True) / 127.5
    error = (stated_weight(held) - given).abs()
    rounding = 130 * step * torch.finfo(dtype).eps  # of the scale, times the largest code
    assert (error <= step / 2 * 1.02 + rounding).all()  # half a step, one at the largest
    assert held.codes.abs().amax(1).float().median() >= 127


def test_nf4_codes_are_the_nearest_values_of_the_papers_table():
    library("bitsandbytes")
    given = weight().double()
    blocks = given.view(-1, 64)
    size = blocks.abs().amax(1, keepdim=True)
    table = torch.tensor(NF4, dtype=torch.float64)
    nearest = table[(blocks / size.clamp(min=1e-30)).unsqueeze(-1).sub(table).abs().argmin(-1)]
    distance = (stated_weight(layer("nf4", weight())) - (nearest * size).view(given.shape)).abs()
    assert float(distance.max() / size.max()) < 1e-6


def test_fp8_errors_are_at_most_a_sixteenth():
    given = weight().double()
    error = (stated_weight(layer("fp8", weight())) - given).abs()
    small = given.abs().amax(1, keepdim=True) / 448 * 2.0**-9  # a subnormal step, at most
    assert (error <= given.abs() / 16 * 1.001 + small).all()
    assert float(error.max()) > 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_the_values_of_the_others(kind, dtype):
    held = layer(kind, weight(dtype=dtype), bias=True)
    rows = torch.randn(9, held.in_features, generator=source(1)).to(dtype)
    changed = rows.clone()
    changed[1:] *= 1e4
    changed[2, 0] = 1e6
    assert torch.equal(held(rows)[0], held(changed)[0])
    gradients = []
    for given in (rows, changed):
        x = given.clone().requires_grad_()
        gradients.append(torch.autograd.grad(held(x), x, given[:, : held.out_features])[0][0])
    assert torch.equal(*gradients)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_as_wide_as_the_weight_is_kept_for_the_backward_pass(kind):
    held, kept = layer(kind, weight(), bias=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        held(torch.randn(3, held.in_features, requires_grad=True))
    assert {id(tensor) for tensor in kept} <= {id(held.codes), id(held.scale)}
    assert sum(tensor.nbytes for tensor in kept) < 0.4 * weight().nbytes


@pytest.mark.parametrize("kind", KINDS)
def test_float_makes_a_layer_of_float32_with_the_same_codes(kind):
    held = layer(kind, weight(dtype=torch.bfloat16), bias=True)
    wide = stated_weight(held)
    held.float()
    assert held.weight.dtype == held.bias.dtype == torch.float32
    assert float((held.weight.double() - wide).abs().max()) <= 1e-6 * float(wide.abs().max())
