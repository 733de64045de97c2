"""Loads a base model and its tokenizer from a folder or from the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from userdp.clients.checkpoints import adapter_folder, weights
from userdp.sim.common.errors import ConfigurationError


def load(
    path: str | Path,
    *,
    revision: str | None,
    dtype: torch.dtype,
    device: torch.device,
    classes: int | None = None,
    seed: int = 0,
) -> tuple[Any, Any, tuple[str, ...]]:
    """Load a base model and its tokenizer from a folder or from the Hugging Face hub.

    Args:
        path: folder, or name on the hub.
        revision: branch, tag or commit on the hub; None takes the default branch.
        classes: number of classes of a classification head; None loads a causal language model.
        seed: draws the weights of a classification that the checkpoint lacks, as its head's.

    Returns:
        The base model on ``device``, its tokenizer, and the names of the weights that were drawn.

    Raises:
        ConfigurationError: there is no such model, it is of another kind or an adapter, or its
            weights are not all there, of the right shapes and finite.
    """
    auto_class: Any = transformers.AutoModelForCausalLM
    options: dict[str, int] = {}
    if classes is not None:
        auto_class = transformers.AutoModelForSequenceClassification
        options = {"num_labels": classes}
    try:
        adapter_folder.refuse(path, revision)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            base: Any
            # Without trust_remote_code=False transformers would ask the terminal whether to run
            # a model's own code.
            base, loading = auto_class.from_pretrained(
                path,
                revision=revision,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                trust_remote_code=False,
                **options,
            )
    except ConfigurationError:
        raise
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        kind = "causal language model" if classes is None else "model that classifies texts"
        raise ConfigurationError(f"model.path={path}: no {kind}: {reason}") from None
    tokenizer = _tokenizer(path, revision)
    adapter_folder.refuse_inserted(path, base)
    names = weights.drawn(base, loading, path, classes=classes)
    weights.refuse_damaged(base, path)
    return base.to(device), tokenizer, names


def _tokenizer(path: str | Path, revision: str | None) -> Any:
    try:
        return transformers.AutoTokenizer.from_pretrained(
            path, revision=revision, trust_remote_code=False
        )
    except Exception as error:  # readers of damaged files raise many types
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigurationError(
            f"model.path={path}: its tokenizer cannot be loaded; save the model's tokenizer there "
            f"(tokenizer.json, tokenizer_config.json): {reason}"
        ) from None
