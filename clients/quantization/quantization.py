"""Holds the linear layers of a loaded base model in 8 or 4 bits, before an adapter is inserted.

Torchao and bitsandbytes make codes and scales from each weight alone, and `quantized_linear`
computes with them. Output head, embeddings, norms, biases and the layers that a classification
trains whole stay in the precision of the base model. Whoever loads the saved adapter quantises the
base by transformers, with the configuration that is told here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from userdp.clients.checkpoints import weights
from userdp.clients.quantization.quantized_linear import (
    BLOCK,
    BlockScaled,
    QuantizedLinear,
    RowScaled,
)
from userdp.sim.common.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """One way to hold a weight in fewer bits."""

    library: str
    # Quantises a weight (out, in) with its bias, and keeps the precision of both for products.
    layer: Callable[[Tensor, Tensor | None], QuantizedLinear]
    exact: bool  # whether the library's own products are as exact as the precision of their inputs
    reads_conv1d: bool  # whether transformers hands a Conv1D to this library, as a linear layer
    config: Callable[[Sequence[str], str], Any]  # transformers', of kept layers and precision
    imports: Sequence[str]
    call: str  # Python that gives `config`, with {kept} and {dtype} to fill in


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """How a base model was quantised."""

    kind: str
    kept: tuple[str, ...]  # paths of the linear layers that stay in the base model's precision
    dtype: str  # that precision, for example "bfloat16"

    def config(self) -> Any:
        """The ``quantization_config`` with which transformers loads such a base model."""
        return KINDS[self.kind].config(self.kept, self.dtype)

    def python(self) -> tuple[Sequence[str], str]:
        """Lines of Python that import what `config` needs, and the expression that gives it."""
        kind = KINDS[self.kind]
        return kind.imports, kind.call.format(kept=list(self.kept), dtype=repr(self.dtype))


def check(kind: str, dtype: torch.dtype) -> None:
    """Check that the library of this kind is there, and computes in this precision.

    Bitsandbytes multiplies in less than float32 on a CPU (0.4 % off), and peft calls it: an adapter
    that was trained in float32 would not score as it was trained.

    Raises:
        ConfigurationError: it is not, or does not.
    """
    library = KINDS[kind].library
    if dtype == torch.float32 and not KINDS[kind].exact:
        raise ConfigurationError(
            f"model.quantize={kind}: {library} does not multiply in float32; take "
            "model.dtype=bfloat16, or model.quantize=int8."
        )
    if importlib.util.find_spec(library) is None:
        raise ConfigurationError(
            f"model.quantize={kind}: {library} is not installed; install userdp with its extra, "
            "pip install 'userdp[quantize]', or leave model.quantize out."
        )


def planned(base: Any, kind: str) -> Quantized:
    """How `quantize` would quantise a causal language model, which may lie on the device "meta".

    Args:
        base: a model of transformers, as it is built.
    """
    chosen = _chosen(base, KINDS[kind], ())
    dtype = str(base.dtype).removeprefix("torch.")
    return Quantized(kind=kind, kept=_kept(base, chosen), dtype=dtype)


def _kept(base: Any, chosen: Sequence[str]) -> tuple[str, ...]:
    linear = [path for path, layer in base.named_modules() if _is_linear(layer)]
    return tuple(path for path in linear if path not in chosen)


def quantize(base: Any, kind: str, drawn: Sequence[str], device: torch.device) -> Quantized:
    """Quantise the linear layers of a base model in place, and move it to a device.

    The device holds one layer at a time in the precision it was loaded in.

    Args:
        base: a model of transformers, as it was loaded.
        kind: a name of `KINDS`.
        drawn: names of tensors that the checkpoint lacks; their layers are trained whole.

    Raises:
        ConfigurationError: no layer of the model can be quantised, it is quantised already, or a
            weight has no finite codes.
    """
    if getattr(base, "hf_quantizer", None) is not None:
        raise ConfigurationError(
            f"model.quantize={kind}: the checkpoint is quantised already; leave the setting out, "
            "or choose the model's unquantised checkpoint."
        )
    chosen = _chosen(base, KINDS[kind], drawn)
    if not chosen:
        raise ConfigurationError(
            f"model.quantize={kind}: this model ({base.config.model_type}) has no linear layer "
            f"that can be quantised so{_conv1d_hint(base)}; leave model.quantize out."
        )
    kept = _kept(base, chosen)
    for path in chosen:
        parent, _, name = path.rpartition(".")
        layer = _quantized(base.get_submodule(path).to(device), KINDS[kind])
        if not bool(layer.weight.isfinite().all()):
            raise ConfigurationError(
                f"model.quantize={kind}: {path} has rows that {KINDS[kind].library} makes no "
                "finite numbers of, as rows of zeros under fp8; take model.quantize=int8."
            )
        setattr(base.get_submodule(parent), name, layer)
    base.to(device)
    dtype = str(base.dtype).removeprefix("torch.")
    return Quantized(kind=kind, kept=kept, dtype=dtype)


def _is_linear(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear | Conv1D)


def _chosen(base: Any, kind: _Kind, drawn: Sequence[str]) -> list[str]:
    """Paths of the layers to quantise."""
    head, whole = base.get_output_embeddings(), set(weights.trained_whole(drawn))
    wide = set(getattr(base, "_keep_in_fp32_modules", None) or ())
    types = (nn.Linear, Conv1D) if kind.reads_conv1d else (nn.Linear,)
    return [
        path
        for path, layer in base.named_modules()
        if type(layer) in types
        and layer is not head
        and path not in whole
        and not weights.in_head(path)
        and not wide & set(path.split("."))
    ]


def _conv1d_hint(base: nn.Module) -> str:
    if any(isinstance(layer, Conv1D) for layer in base.modules()):
        return " (its layers are Conv1D, which nf4 alone takes)"
    return ""


@torch.no_grad()
def _quantized(layer: Any, kind: _Kind) -> QuantizedLinear:
    weight = layer.weight.detach()
    return kind.layer(weight.T if isinstance(layer, Conv1D) else weight, layer.bias)


def _row_scaled(config: Callable[[], Any]) -> Callable[[Tensor, Tensor | None], QuantizedLinear]:
    """Quantises by torchao, which gives one scale to each output."""

    def layer(weight: Tensor, bias: Tensor | None) -> QuantizedLinear:
        from torchao.quantization import quantize_

        plain = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        plain.weight = nn.Parameter(weight, requires_grad=False)
        quantize_(plain, config())
        made: Any = plain.weight
        return RowScaled(made.qdata, made.scale, shape=weight.shape, bias=bias, dtype=weight.dtype)

    return layer


def _block_scaled(weight: Tensor, bias: Tensor | None) -> QuantizedLinear:
    """Quantises by bitsandbytes, without a second quantisation of the scales."""
    import bitsandbytes.functional

    codes, state = bitsandbytes.functional.quantize_4bit(
        weight.contiguous(), blocksize=BLOCK, compress_statistics=False, quant_type="nf4"
    )
    return BlockScaled(codes, state.absmax, shape=weight.shape, bias=bias, dtype=weight.dtype)


def _int8() -> Any:
    from torchao.quantization import Int8WeightOnlyConfig

    return Int8WeightOnlyConfig(set_inductor_config=False)  # it would be set for the whole process


def _fp8() -> Any:
    from torchao.quantization import Float8WeightOnlyConfig

    return Float8WeightOnlyConfig(set_inductor_config=False)


def _torchao(config: Callable[[], Any]) -> Callable[[Sequence[str], str], Any]:
    def made(kept: Sequence[str], dtype: str) -> Any:
        from transformers import TorchAoConfig

        return TorchAoConfig(config(), modules_to_not_convert=list(kept))

    return made


def _bitsandbytes(kept: Sequence[str], dtype: str) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(kept),
    )


def _by_torchao(name: str, config: Callable[[], Any]) -> _Kind:
    return _Kind(
        library="torchao",
        layer=_row_scaled(config),
        exact=True,
        reads_conv1d=False,
        config=_torchao(config),
        imports=(
            f"from torchao.quantization import {name}",
            "from transformers import TorchAoConfig",
        ),
        call=f"TorchAoConfig({name}(), modules_to_not_convert={{kept}})",
    )


KINDS: Mapping[str, _Kind] = {
    "int8": _by_torchao("Int8WeightOnlyConfig", _int8),
    "fp8": _by_torchao("Float8WeightOnlyConfig", _fp8),
    "nf4": _Kind(
        library="bitsandbytes",
        layer=_block_scaled,
        exact=False,
        reads_conv1d=True,
        config=_bitsandbytes,
        imports=("from transformers import BitsAndBytesConfig",),
        call=(
            'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", '
            "bnb_4bit_compute_dtype={dtype}, llm_int8_skip_modules={kept})"
        ),
    ),
}
