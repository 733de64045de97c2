"""Loads a saved adapter on its base model, by transformers and peft alone, with its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from userdp.clients.evaluation import plain_peft
from userdp.clients.quantization import quantization
from userdp.clients.quantization.quantization import Quantized
from userdp.sim.common.errors import ConfigurationError

_TOKENIZER = "tokenizer_config.json"


def load(
    adapter: Path,
    base: str,
    *,
    revision: str | None,
    dtype: torch.dtype,
    device: torch.device,
    quantize: str | None,
) -> tuple[Any, Any]:
    """The adapted causal language model, of peft, and the tokenizer, of transformers.

    Args:
        adapter: folder of the adapter; its tokenizer goes before the base model's.
        base: folder, or name on the hub.
        revision: commit on the hub; None for a folder.
        dtype: precision of the base model in training.
        quantize: kind in which its linear layers were held, if any.

    Raises:
        ConfigurationError: base, adapter or tokenizer cannot be loaded, or do not fit.
    """
    try:
        quantized = None
        if quantize is not None:
            quantization.check(quantize, dtype)
            quantized = _quantized(base, revision, dtype, quantize)
        plain = plain_peft.load_base(
            base, revision=revision, dtype=dtype, device=device, classes=None, quantized=quantized
        )
        adapted = plain_peft.adapted(plain, adapter)
        return adapted, _tokenizer(adapter, base, revision)
    except ConfigurationError:
        raise
    except Exception as error:  # libraries raise many types for files that are missing or damaged
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise ConfigurationError(
            f"{adapter} on the base model {base}: did not load: {type(error).__name__}: {reason}"
        ) from None


def _quantized(base: str, revision: str | None, dtype: torch.dtype, kind: str) -> Quantized:
    """How the base model was quantised: a matter of its layers, so no weight is read."""
    config = transformers.AutoConfig.from_pretrained(
        base, revision=revision, trust_remote_code=False
    )
    with torch.device("meta"):
        built = transformers.AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=dtype, trust_remote_code=False
        )
    return quantization.planned(built, kind)


def _tokenizer(adapter: Path, base: str, revision: str | None) -> Any:
    """The adapter's own, which a run of an older version has not saved, or the base model's."""
    if (adapter / _TOKENIZER).is_file():
        base, revision = str(adapter), None
    return transformers.AutoTokenizer.from_pretrained(
        base, revision=revision, trust_remote_code=False
    )
