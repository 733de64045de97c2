"""Attention of packed rows: each record attends to itself alone.

All other layers of a causal model work on single positions, so only attention has to know where a
record begins. transformers looks up the function of every attention layer by a name in the model's
configuration; while a packed stack is computed, that name is ours, and our function calls the
model's usual one record by record. No mask over the row is made, nothing is computed between two
records, and a record's activations cannot reach another's, not even as NaN.

A family whose layers do not look up that name, or that mixes positions elsewhere, computes
something else than with a row for each record: `userdp.clients.models.isolation_probe` refuses it
by name.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_NAME = "userdp_packed"


class _Row:
    """The records of the row that is computed, and the name of the model's usual attention."""

    def __init__(self, usual: str, lengths: Sequence[int]) -> None:
        self.usual = usual
        # Records of one length that follow each other are one call: (positions, records).
        self.groups = [(n, len(list(same))) for n, same in itertools.groupby(lengths)]


_ROW: ContextVar[_Row] = ContextVar("row")


@contextlib.contextmanager
def records(config: Any, lengths: Sequence[int]) -> Iterator[None]:
    """Within this block the model of a configuration computes rows of records of these lengths.

    Args:
        lengths: positions of each record, whose sum is the length of the row.
    """
    usual = config._attn_implementation
    token = _ROW.set(_Row(usual, lengths))
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = usual
        _ROW.reset(token)


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """(1, positions, heads, width) from (1, heads, positions, width), in transformers' interface.

    Raises:
        ValueError: the layer has a bias or mask for the whole row.
    """
    if attention_mask is not None or options.get("position_bias") is not None:
        raise ValueError("A layer's attention is not by position alone.")
    row = _ROW.get()
    attend = _usual(module, row.usual)
    found, start = [], 0
    for length, count in row.groups:
        parts = [_records(tensor, start, length, count) for tensor in (query, key, value)]
        mask = _mask(parts[0], row.usual, options.get("sliding_window"))
        mixed = attend(module, *parts, mask, **options)[0]
        found.append(mixed.reshape(1, length * count, *mixed.shape[2:]))
        start += length * count
    return torch.cat(found, 1), None


def _usual(module: torch.nn.Module, name: str) -> Callable[..., Any]:
    """The model's usual attention; the one called eager is its own module's."""
    family: Any = sys.modules[type(module).__module__]
    if name == "eager":
        eager: Callable[..., Any] = family.eager_attention_forward
        return eager
    attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS[name]
    return attend


def _records(row: Tensor, start: int, length: int, count: int) -> Tensor:
    """(count, heads, length, width): some records of one length, of a row (1, heads, ., width)."""
    part = row[0, :, start : start + length * count]
    return part.reshape(len(part), count, length, -1).transpose(0, 1)


def _mask(query: Tensor, usual: str, window: int | None) -> Tensor | None:
    """(1, 1, length, length) of one record, or None where the function is causal by itself.

    Args:
        window: positions that a position sees, itself included; None: all up to itself.
    """
    length = query.shape[2]
    narrow = window is not None and window < length
    if usual == "sdpa" and not narrow:
        return None
    seen = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    if narrow and window is not None:
        seen = seen.triu(1 - window)
    if usual == "sdpa":
        return seen[None, None]
    hidden = torch.finfo(query.dtype).min
    return torch.zeros_like(seen, dtype=query.dtype).masked_fill_(~seen, hidden)[None, None]


# Compiled layers leave it out: a compiler would make a version for the lengths of every row.
ALL_ATTENTION_FUNCTIONS.register(
    _NAME,
    torch.compiler.disable(_attention),  # type: ignore[no-untyped-call]
)
