"""Floating-point operations of LoRA training, and the peak rates of GPUs.

Matrix products are counted, as two operations for each weight and token. A frozen weight takes part
in the forward pass and, for the gradient of its input, once more in the backward pass; a factor of
the adapter takes part a third time, for its own gradient. The first layer's attention projections
need no gradient of their input, since nothing trainable lies before them. Attention counts as two
products of all positions with all positions forward and four backward, as is usual, though a causal
model could do with half. Padding does not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from userdp.analysis.benchmark.peers.work import Spec

# Dense bf16 (fp16 for V100 and T4) tensor-core rates of the data sheets, in TFLOP/s. The first name
# that is part of the device's name counts.
PEAKS = {
    "GB200": 2500.0,
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "A40": 149.7,
    "A10G": 70.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L4": 121.0,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
    "V100": 125.0,
    "T4": 65.0,
}


class Product(NamedTuple):
    """A linear layer."""

    inputs: int
    outputs: int
    adapted: bool  # has LoRA factors
    passes_back: bool  # needs the gradient of its input


def peak_tflops(device: str) -> float | None:
    """Dense bf16 rate of a card in TFLOP/s; None if it is not in the table.

    Args:
        device: its name, as torch reports it.

    >>> peak_tflops("NVIDIA H100 PCIe"), peak_tflops("NVIDIA H100 80GB HBM3")
    (756.0, 989.0)
    """
    return next((rate for name, rate in PEAKS.items() if name in device), None)


def training(spec: Spec, lengths: Iterable[int]) -> dict[str, float]:
    """Operations of one forward and backward pass over all records, by part of the model.

    Args:
        lengths: tokens of each record. A record of n tokens has n - 1 positions: nothing is
            predicted from its last token.

    Returns:
        Operations of the parts "frozen", "adapter", "attention" and "head".
    """
    positions = [length - 1 for length in lengths]
    total, squares = sum(positions), sum(n * n for n in positions)
    frozen = adapter = 0
    for product in _products(spec):
        uses = 2 if product.passes_back else 1  # forward, and backward to the input
        frozen += uses * 2 * product.inputs * product.outputs
        if product.adapted:
            down, up = product.inputs * spec.rank, spec.rank * product.outputs
            adapter += 2 * ((uses + 1) * down + 3 * up)
    return {
        "frozen": float(total * frozen),
        "adapter": float(total * adapter),
        "attention": float(squares * spec.layers * spec.width * 2 * (2 + 4)),
        "head": float(total * 2 * 2 * spec.width * spec.vocabulary),
    }


def _products(spec: Spec) -> Iterator[Product]:
    """The linear layers of all blocks, in order, without the head."""
    width, hidden = spec.width, spec.hidden
    for layer in range(spec.layers):
        back = layer > 0
        if spec.family == "llama":
            yield Product(width, width, True, back)
            yield from [Product(width, spec.kv_width, True, back)] * 2
            yield Product(width, width, True, True)
            yield from [Product(width, hidden, True, True)] * 2
        else:
            yield Product(width, 3 * width, True, back)
            yield Product(width, width, True, True)
            yield Product(width, hidden, True, True)
        yield Product(hidden, width, True, True)
