"""Builds a tiny random model of every family that transformers' auto classes know."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY = 96
POSITIONS = 64
LARGEST = 3_000_000  # parameters: a configuration that the overrides below do not make tiny
_LAYERS = 2


def _each(value: Any, *names: str) -> dict[str, Any]:
    return dict.fromkeys(names, value)


# Values by the names that the configurations of the families give them.
_TINY: dict[str, Any] = {
    **_each(VOCABULARY, "vocab_size", "vocab_size_per_layer_input", "n_vocab"),
    **_each(32, "hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size", "n_embed"),
    **_each(48, "intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "n_inner"),
    **_each(48, "d_ff", "ffn_hidden_size", "intermediate_size_mlp", "feed_forward_size", "dff"),
    **_each(48, "hidden_dim", "shared_expert_intermediate_size", "moe_intermediate_size"),
    **_each(48, "d_inner", "ffn_size", "mlp_hidden_size", "ffn_intermediate_size", "dim_ff"),
    **_each(48, "shared_intermediate_size", "expert_ffn_hidden_size", "dense_intermediate_size"),
    **_each(_LAYERS, "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers"),
    **_each(_LAYERS, "decoder_layers", "num_decoder_layers", "num_encoder_layers", "depth"),
    **_each(4, "num_attention_heads", "n_head", "n_heads", "encoder_attention_heads", "num_heads"),
    **_each(4, "decoder_attention_heads", "num_decoder_attention_heads", "attention_heads"),
    **_each(4, "num_encoder_attention_heads", "linear_num_value_heads"),
    **_each(2, "num_key_value_heads", "n_kv_heads", "linear_num_key_heads"),
    **_each(8, "head_dim", "d_kv", "attention_head_dim", "linear_key_head_dim", "global_head_dim"),
    **_each(8, "linear_value_head_dim", "mamba_d_head", "kv_channels", "swa_head_dim"),
    **_each(8, "swa_v_head_dim"),
    **_each(POSITIONS, "max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"),
    **_each(POSITIONS, "context_length", "max_sequence_length", "max_seq_length"),
    **_each(POSITIONS, "max_target_positions"),
    **_each(4, "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    **_each(2, "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k"),
    **_each(1, "n_shared_experts", "num_shared_experts", "moe_num_shared_experts"),
    **_each(2, "n_group", "num_expert_group", "type_vocab_size"),
    **_each(1, "topk_group", "first_k_dense_replace"),
    **_each(8, "kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "v_head_dim", "state_size"),
    **_each(8, "mamba_d_state", "mamba_state_dim", "mamba_dt_rank", "time_step_rank"),
    **_each(8, "sliding_window", "attention_chunk_size", "window_size"),
    **_each(8, "chunk_size", "mamba_chunk_size"),
    "qk_rope_head_dim": 4,
    "qk_head_dim": 12,
    "image_size": 28,
    "patch_size": 14,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}

_HEADS = {"num_key_value_heads": 4}
_LATENT = {"num_key_value_heads": 4, "head_dim": 4}
_STATES = {"mamba_n_heads": 8, "mamba_d_head": 8}
_ROTATED = {"rotary_dim": 4}
_ZAMBA = {
    **_each(["mamba", "hybrid"], "layer_types", "layers_block_type"),
    **_each(8, "n_mamba_heads", "mamba_headdim"),
    "attention_head_dim": 16,
    "attention_hidden_size": 64,
}

# What single families need beside or instead of these.
_ALSO: dict[str, dict[str, Any]] = {
    **_each(_LATENT, "axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "youtu"),
    **_each(_LATENT, "glm4_moe_lite", "glm_moe_dsa", "longcat_flash", "minicpm3"),
    **_each(_HEADS, "esmc", "dots3_note_text", "mistral4"),
    **_each(_ROTATED, "codegen", "gptj"),
    **_each(_ZAMBA, "zamba", "zamba2"),
    "bamba": {**_STATES, "attn_layer_indices": [1]},
    "granitemoehybrid": _STATES,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 8},
    "gemma3n_text": {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 8, "laurel_rank": 8},
    "big_bird": {"attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 1},
    "longformer": {"attention_window": [8, 8]},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4, "visual_embed": False},
    "lilt": {"hidden_size": 48},
    "zaya": {"num_experts_per_tok": 1},
    "reformer": {
        "is_decoder": True,
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [16, 16],
        "attn_layers": ["local", "lsh"],
        "num_buckets": 4,
    },
    "roc_bert": {
        **_each(20, "pronunciation_vocab_size", "shape_vocab_size"),
        **_each(8, "pronunciation_embed_dim", "shape_embed_dim"),
    },
    "luke": {"entity_vocab_size": 20, "entity_emb_size": 8},
    "perceiver": {
        "d_latents": 32,
        "num_latents": 8,
        "num_self_attends_per_block": 2,
        "num_blocks": 1,
        **_each(4, "num_self_attention_heads", "num_cross_attention_heads"),
    },
}


def names(task: str) -> list[str]:
    """The families of a task, CAUSAL_LM or SEQ_CLS."""
    mappings = {
        "CAUSAL_LM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "SEQ_CLS": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    }
    return list(mappings[task])


def config(family: str, **changes: Any) -> Any:
    """A tiny configuration of the family.

    Raises:
        Exception: of any type: the family's configuration rejects the values above.
    """
    return _tiny(CONFIG_MAPPING[family], {**_ALSO.get(family, {}), **changes})


def _tiny(kind: Any, also: dict[str, Any]) -> Any:
    """The configuration of this kind, its parts tiny too; ``also`` may hold values of parts."""
    try:
        default = kind()
        known = set(default.to_dict()) | set(kind.attribute_map)
    except Exception:  # a kind that has no defaults
        default, known = None, set(_TINY)
    values = {name: value for name, value in _TINY.items() if name in known}
    parts = {}
    for name in getattr(kind, "sub_configs", {}):
        present = getattr(default, name, None)
        if isinstance(present, transformers.PreTrainedConfig):
            parts[name] = _tiny(type(present), also.get(name, {})).to_dict()
    return kind(**{**values, **also, **parts})


def build(family: str, task: str, *, seed: int = 0, classes: int = 3, **changes: Any) -> Any:
    """A random model of the family in evaluation mode, on the CPU, float32.

    Raises:
        Exception: of any type: transformers does not build it from the tiny configuration.
        ValueError: the model is not tiny.
    """
    settings = config(family, **changes)
    auto: Any = transformers.AutoModelForCausalLM
    if task == "SEQ_CLS":
        auto, settings.num_labels = transformers.AutoModelForSequenceClassification, classes
    with _quiet(), torch.random.fork_rng():
        with torch.device("meta"):
            count = sum(p.numel() for p in auto.from_config(settings).parameters())
        if count > LARGEST:
            raise ValueError(f"not tiny: {count:,} parameters")
        torch.manual_seed(seed)
        model = auto.from_config(settings).float()
        for parameter in model.parameters():  # larger than an initialisation: every part matters
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(level)
