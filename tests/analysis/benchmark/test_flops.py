"""The arithmetic of LoRA training as counted by hand is what torch counts as it is done."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from userdp.analysis.benchmark import flops
from userdp.analysis.benchmark.peers.work import Spec, Work


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("kv_heads", [None, 1])
def test_torch_counts_the_same_operations(family, layers, kv_heads):
    if family == "gpt2" and kv_heads:
        pytest.skip("GPT-2 has as many heads of keys as of queries")
    work = Work(Spec(users=3, records=1, length=9, family=family, layers=layers, width=16, heads=2,
                     kv_heads=kv_heads, mlp=40, vocabulary=61, rank=3))  # fmt: skip
    model = work.plain()
    ids = torch.from_numpy(work.tokens.reshape(3, 9)[:, :-1]).long()
    with FlopCounterMode(display=False) as counted, sdpa_kernel(SDPBackend.MATH):
        model(input_ids=ids, use_cache=False).logits.sum().backward()
    by_hand = sum(flops.training(work.spec, work.lengths.tolist()).values())
    assert counted.get_total_flops() == by_hand


def test_a_longer_name_of_a_card_is_not_taken_for_a_shorter_one():
    assert flops.peak_tflops("NVIDIA H100 PCIe") == 756.0
    assert flops.peak_tflops("NVIDIA H100 80GB HBM3") == 989.0
    assert flops.peak_tflops("NVIDIA L40S") == 362.0
    assert flops.peak_tflops("A card of tomorrow") is None
