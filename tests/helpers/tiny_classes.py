"""Tiny random classifiers and users with labelled texts, for the tests of classification."""

from __future__ import annotations

import copy
import functools

import numpy as np
import peft
import torch
import transformers

from helpers import tiny
from userdp.clients.models.language_model import LanguageModel
from userdp.clients.models.peft_adapter import LoraSettings
from userdp.sim.data import masking
from userdp.sim.data.population import Population

CLASSES = 3
DECODERS = ["gpt2", "llama", "opt", "gpt_neox", "qwen2", "gemma2"]
ENCODERS = ["roberta", "bert"]
FAMILIES = ["roberta", "gpt2", "llama"]  # for tests of behaviour that all families share


def config(family: str):
    """The configuration of a tiny classifier of the family."""
    tokens = {"vocab_size": tiny.VOCABULARY, "bos_token_id": 0, "eos_token_id": 2}
    shared = {**tokens, "pad_token_id": 1, "num_labels": CLASSES}
    layers = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    long, gated = {"max_position_embeddings": 66}, {"intermediate_size": 24}
    return {
        "roberta": lambda: transformers.RobertaConfig(
            **layers, **gated, **long, type_vocab_size=1, **shared
        ),
        "bert": lambda: transformers.BertConfig(**layers, **gated, **long, **shared),
        "gpt2": lambda: transformers.GPT2Config(
            n_embd=16, n_layer=2, n_head=2, n_positions=64, **shared
        ),
        "llama": lambda: transformers.LlamaConfig(
            **layers, **gated, num_key_value_heads=1, **shared
        ),
        "opt": lambda: transformers.OPTConfig(
            **layers, **long, ffn_dim=24, word_embed_proj_dim=12, **shared
        ),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(**layers, **gated, **shared),
        "qwen2": lambda: transformers.Qwen2Config(
            **layers, **gated, num_key_value_heads=1, **shared
        ),
        "gemma2": lambda: transformers.Gemma2Config(
            **layers, **gated, num_key_value_heads=1, head_dim=8, **shared
        ),
    }[family]()


def base_model(family: str, seed: int = 0) -> torch.nn.Module:
    """A classifier of the family with a few thousand random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForSequenceClassification.from_config(config(family))
        for parameter in model.parameters():  # larger: each part matters
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


@functools.cache
def classifier(family: str = "gpt2") -> LanguageModel:
    """A classifier with LoRA of rank 2; cached, so tests must not change it."""
    return LanguageModel(base_model(family), LoraSettings(r=2, alpha=4), classes=CLASSES)


def moved(model: LanguageModel, seed: int = 1) -> torch.Tensor:
    """A random adapter (D,) near the initial one."""
    generator = torch.Generator().manual_seed(seed)
    return model.initial + 0.1 * torch.randn(model.layout.size, generator=generator)


def units(count: int, seed: int = 0, longest: int = 20) -> list[list[np.ndarray]]:
    """Units of one to four texts of 1 to ``longest`` tokens, each with its class behind it."""
    source = np.random.default_rng(seed)
    return [
        [
            np.append(
                ~source.integers(3, tiny.VOCABULARY, source.integers(1, longest + 1)),
                source.integers(0, CLASSES),
            )
            for _ in range(source.integers(1, 5))
        ]
        for _ in range(count)
    ]


def people(count: int, seed: int = 0) -> Population:
    """Users user0, user1, ... with one to four labelled texts each."""
    return Population.of(
        {f"user{i}": [r.tolist() for r in unit] for i, unit in enumerate(units(count, seed))}
    )


def plain(model: LanguageModel, family: str, adapter: torch.Tensor) -> torch.nn.Module:
    """The same adapter in plain peft."""
    adapted = peft.get_peft_model(copy.deepcopy(base_model(family)), model.peft_config)
    named = model.layout.named(adapter.numpy())
    state = {name: torch.from_numpy(tensor.copy()) for name, tensor in named.items()}
    peft.set_peft_model_state_dict(adapted, state)
    return adapted.eval()


def parts(record: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The text (1, tokens) and the class (1,)."""
    ids = torch.from_numpy(np.asarray(masking.tokens(record), np.int64))
    return ids[None, :-1], ids[-1:]
