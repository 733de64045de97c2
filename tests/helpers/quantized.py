"""Quantised layers and base models; tests of a kind are skipped where its library is missing."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from helpers import small_world
from userdp.clients.quantization import quantization
from userdp.clients.quantization.quantized_linear import QuantizedLinear

# Of NF4, from Dettmers et al., arXiv 2305.14314, appendix E.
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip


def library(name: str) -> None:
    """Skip a test where the library is not installed."""
    pytest.importorskip(name)


def layer(kind: str, weight: torch.Tensor, bias: bool = False) -> QuantizedLinear:
    """The weight (out, in) quantised, with a bias of random numbers."""
    library(quantization.KINDS[kind].library)
    offset = torch.randn(len(weight), generator=torch.Generator().manual_seed(9))
    given = torch.nn.Parameter(offset.to(weight.dtype)) if bias else None
    return quantization.KINDS[kind].layer(weight, given)


@functools.cache
def llama() -> Path:
    """A folder with a Llama of linear layers and the tokenizer of the small world."""
    folder = small_world.folder() / "llama"
    shutil.copytree(small_world.model(), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    config = transformers.LlamaConfig(
        vocab_size=len(transformers.AutoTokenizer.from_pretrained(folder)),
        num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        **sizes,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config)
        for parameter in model.parameters():  # larger: rounding to 8 bits moves the losses
            parameter.data += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(folder)
    return folder


def overrides(*more: str) -> list[str]:
    """A run over the Llama, quantised to int8, in a second or two; later overrides win."""
    return [f"model.path={llama()}", "model.quantize=int8", *more]
