"""Lets the host run ahead of the device: forward passes ask for no value of their inputs.

transformers looks at the tokens, positions or mask of every forward pass, to warn of padding or to
save an attention mask, and a host that reads a value of the device waits for all work before it:
each stack would begin with an idle device. What is asked is known here without a look:

- Positions that the model counts itself are 0, 1, 2, ..., so no row holds several texts. Where
  positions are given, texts are told apart by them, whether or not there are several in a row.
- Padding has a mask, or lies behind the tokens of a causal model, so no warning is due.
- A mask that is given is used, whether or not it masks something in this stack. So the kernel that
  computes a row does not depend on the lengths of the others either.

`transformers.masking_utils` asks in functions of its own. They are replaced by ones that answer at
once while a module of `let` computes in the same thread, and pass the question on otherwise.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import masking_utils


class _Running(threading.local):
    """Whether positions are counted by the model itself, of each forward pass of this thread."""

    def __init__(self) -> None:
        self.counted: list[bool] = []


_RUNNING = _Running()


def let(base: Any) -> None:
    """Let a model of transformers compute without waiting for the device; its results stay."""
    _answer_at_once()
    for module in base.modules():
        if hasattr(module, "warn_if_padding_and_no_attention_mask"):
            module.warn_if_padding_and_no_attention_mask = _nothing
    inner: nn.Module = base.base_model
    if _enter not in inner._forward_pre_hooks.values():
        inner.register_forward_pre_hook(_enter, with_kwargs=True)
        inner.register_forward_hook(_leave, always_call=True)


def _nothing(*_: Any, **__: Any) -> None:
    """In place of a warning."""


def _enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    _RUNNING.counted.append(not args and kwargs.get("position_ids") is None)


def _leave(*_: Any) -> None:
    _RUNNING.counted.pop()


@functools.cache
def _answer_at_once() -> None:
    """Replace the functions that look at values, where this version of transformers has them."""
    for name, answer in _ANSWERS.items():
        asked = getattr(masking_utils, name, None)
        if asked is not None:
            setattr(masking_utils, name, functools.partial(answer, asked))


def _packed(asked: Callable[[Tensor], Tensor | None], positions: Tensor) -> Tensor | None:
    """(rows, positions) int64: the number of each position's text in its row; None: all the same.

    Args:
        positions: (rows, positions) int64; a text begins where they do not go on by one.
    """
    if not _RUNNING.counted:
        return asked(positions)
    if _RUNNING.counted[-1]:
        return None
    return (positions.diff(prepend=positions[:, :1] - 1) != 1).cumsum(-1)


def _all(asked: Callable[..., Any], mask: Tensor | None, *rest: Any, **options: Any) -> Any:
    """Whether nothing is masked; inside a pass that is not looked at, and the mask is used."""
    return False if _RUNNING.counted and mask is not None else asked(mask, *rest, **options)


_ANSWERS: dict[str, Callable[..., Any]] = {
    "find_packed_sequence_indices": _packed,
    "fast_all": _all,
    "_ignore_bidirectional_mask_sdpa": _all,
}
