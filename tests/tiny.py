"""Tiny random models and users of ragged records, shared by the tests."""

from __future__ import annotations

import numpy as np
import torch
import transformers

VOCABULARY = 61


def base_model(family: str, seed: int = 0) -> torch.nn.Module:
    """A causal model of the family, a few thousand random weights."""
    shared = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    layers = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    gated = {**layers, "intermediate_size": 24, "num_key_value_heads": 1}
    config = {
        "gpt2": lambda: transformers.GPT2Config(
            n_embd=16, n_layer=2, n_head=2, n_positions=64, **shared
        ),
        "llama": lambda: transformers.LlamaConfig(**gated, **shared),
        "opt": lambda: transformers.OPTConfig(
            **layers, ffn_dim=24, max_position_embeddings=64, word_embed_proj_dim=12, **shared
        ),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(**layers, intermediate_size=24, **shared),
        "qwen2": lambda: transformers.Qwen2Config(**gated, tie_word_embeddings=True, **shared),
        "qwen3": lambda: transformers.Qwen3Config(**gated, head_dim=8, **shared),
        "gemma2": lambda: transformers.Gemma2Config(**gated, head_dim=8, **shared),
    }[family]()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():  # larger than an initialisation: every part matters
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def ragged_units(count: int, seed: int = 0, longest: int = 20) -> list[list[np.ndarray]]:
    """Units of one to five records of 2 to ``longest`` tokens."""
    source = np.random.default_rng(seed)
    return [
        [
            source.integers(0, VOCABULARY, source.integers(2, longest + 1))
            for _ in range(source.integers(1, 6))
        ]
        for _ in range(count)
    ]
