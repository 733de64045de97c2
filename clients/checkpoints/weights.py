"""Compares a loaded base model with its checkpoint: no weight may be drawn, changed or damaged.

A weight that the checkpoint lacks is drawn at random when the model is loaded. An adapter is saved
without the base model's weights, so whoever loads it again gets other draws. A classification may
lack weights all the same, as those of its head: the linear layers that hold them are then trained
whole, and are part of the saved adapter. Everything else is refused.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from userdp.sim.common.errors import ConfigurationError

_LOG = logging.getLogger("userdp")

HEADS = ("score", "classifier")  # peft trains these whole with a classification
_NUMBERED = re.compile(r"\.\d+\.")  # of a layer among others of its kind: never part of a head


def drawn(
    base: Any, loading: Mapping[str, Any], path: str | Path, *, classes: int | None
) -> tuple[str, ...]:
    """Names of the tensors that the checkpoint lacks and a classification's adapter will hold.

    Tied tensors are not lacking, if one of them is there.

    Args:
        base: the loaded model, a Transformers module.
        loading: what transformers reports of the loading.
        path: of the model, for the message.
        classes: number of classes; None for next-token prediction.

    Raises:
        ConfigurationError: a tensor has another shape in the checkpoint; or it is not there, and
            no adapter would hold it.
    """
    _refuse_other_shapes(loading["mismatched_keys"], path, classes)
    missing = sorted(loading["missing_keys"])
    lost = [name for name in missing if classes is None or not _can_be_saved(base, name)]
    if lost:
        raise ConfigurationError(
            f"model.path={path}: the checkpoint lacks {_listed(lost)}; what is drawn at random in "
            "place of it would be scored, and is no part of a saved adapter; restore the "
            "checkpoint, or choose another model."
        )
    _tell_unread(loading["unexpected_keys"], path)
    return tuple(name for name in missing if isinstance(_owner(base, name), nn.Linear))


def trained_whole(names: Iterable[str]) -> list[str]:
    """Paths of the modules outside the head that hold these tensors, for ``modules_to_save``."""
    owners = {name.rpartition(".")[0] for name in names}
    return sorted(owner for owner in owners if not in_head(owner))


def in_head(path: str) -> bool:
    """Whether peft trains the module at this path whole with a classification."""
    return any(part.endswith(HEADS) for part in path.split("."))


def _can_be_saved(base: Any, name: str) -> bool:
    """Whether the adapter will hold the tensor, or it is the same however often it is made.

    A layer norm that the checkpoint lacks starts at one and zero, and stays so.
    """
    owner = _owner(base, name)
    if in_head(name.rpartition(".")[0]):
        return isinstance(owner, nn.Linear) or _constant(_tensor(base, name))
    if _NUMBERED.search(name) or owner is base.get_input_embeddings():
        return False
    return isinstance(owner, nn.Linear) or _constant(_tensor(base, name))


def _owner(base: Any, name: str) -> nn.Module:
    module: nn.Module = base.get_submodule(name.rpartition(".")[0])
    return module


def _tensor(base: Any, name: str) -> Tensor:
    tensor: Tensor = getattr(_owner(base, name), name.rpartition(".")[2])
    return tensor


def _constant(tensor: Tensor) -> bool:
    return tensor.numel() == 0 or bool((tensor == tensor.flatten()[0]).all())


def _refuse_other_shapes(
    mismatched: Iterable[Sequence[Any]], path: str | Path, classes: int | None
) -> None:
    """Refuse tensors of other shapes, each (name, shape in the checkpoint, shape in the model)."""
    for name, stored, built in sorted(mismatched, key=str):
        shapes = f"{name} has the shape {tuple(stored)} in the checkpoint, and {tuple(built)}"
        if classes is not None and in_head(name.rpartition(".")[0]):
            raise ConfigurationError(
                f"data.classes: {classes} classes, but {shapes} in a model of so many "
                f"(model.path={path}); choose the classes of its head, or a model without a head."
            )
        raise ConfigurationError(
            f"model.path={path}: {shapes} in the model that its config.json describes; restore "
            "the two files that belong together."
        )


def _tell_unread(unexpected: Iterable[str], path: str | Path) -> None:
    """Say what a checkpoint holds beyond the model; the head of another task is no news.

    Raises:
        ConfigurationError: parts of an adapter are among it.
    """
    names = sorted(unexpected)
    if adapters := [name for name in names if ".lora_" in name or ".base_layer." in name]:
        raise ConfigurationError(
            f"model.path={path}: the checkpoint holds an adapter, {_listed(adapters)}, which would "
            "not be read; merge it by peft's merge_and_unload() and save the whole model."
        )
    if layers := [name for name in names if _NUMBERED.search(name)]:
        _LOG.warning("model.path=%s: not read from the checkpoint: %s.", path, _listed(layers))


def refuse_damaged(base: Any, path: str | Path) -> None:
    """Check that every weight is a finite number, in the precision that the model was loaded in.

    Buffers that are computed and not stored may be infinite, as masks are.

    Raises:
        ConfigurationError: names those that are not.
    """
    stored = set(base.state_dict())
    tensors = [*base.named_parameters(), *base.named_buffers()]
    damaged = [name for name, tensor in tensors if not _finite(tensor, name in stored)]
    if damaged:
        raise ConfigurationError(
            f"model.path={path}: {_listed(damaged)} with values that are not finite in "
            f"{str(base.dtype).removeprefix('torch.')}; its weights are damaged, or model.dtype is "
            "too low for them."
        )


def _finite(tensor: Tensor, stored: bool) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.numel() == 0:
        return True
    if tensor.is_complex() or tensor.element_size() < 2:  # without an order, or without an aminmax
        tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor.float()
    ends = torch.stack(tensor.detach().aminmax())  # NaN if there is one; takes no memory
    return not bool((~ends.isfinite() if stored else ends.isnan()).any())


def _listed(names: Sequence[str]) -> str:
    """The number of tensors, and the first ones."""
    more = ", ..." if len(names) > 3 else ""
    count = f"{len(names)} tensor{'s' if len(names) > 1 else ''}"
    return f"{count} ({', '.join(names[:3])}{more})"
