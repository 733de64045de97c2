"""Checks that lanes side by side compute what each computes alone, for one model as it is loaded.

The sensitivity of a round rests on it: a clip bounds what a unit adds to the sum only if no unit
changes the update of another. Adapted layers take their input for rows grouped by lane, and a base
model is free to break that: by a table without rows, by time in the first dimension, by statistics
of the batch, by a router with a capacity, by a scale that the longest row chooses.

The probe computes gradients of invented units and compares them in units of C at the worst C: as
directions, where C is small, and as they are, where C is their norm. It compares side by side
against alone, with units removed, reordered, replaced by others of the same lengths (of random and
of special tokens) and by longer ones, in a crowd, with one adapter for all lanes and with one for
each, with B away from zero (at B = 0 what leaks through A has no gradient), and at lengths on both
sides of every threshold that the configuration names and of the longest text. What a model does
beyond the crowd's number of units alone, or from a length on that its configuration does not name,
is not seen.

Two bounds hold. A unit that is replaced by one of the same lengths changes no shape, so on the
device at hand it moves the others by nothing at all, or by float32 rounding: `_CONTENT`. Shapes
that change choose other kernels, whose sums are rounded in another order: `_ROUNDING`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from userdp.clients.batching import packing
from userdp.clients.batching.packing import Unit
from userdp.clients.models import language_model
from userdp.clients.models.language_model import LanguageModel
from userdp.sim.common import rng
from userdp.sim.common.errors import ConfigurationError

# Largest distance of two updates, each clipped to C, in units of C, that counts as rounding. Over
# the families of transformers in tiny configurations at most 1e-7 was measured for `_CONTENT`,
# and 1e-5 in float32 for `_ROUNDING`. In bfloat16 all stacks have fixed shapes, so the distance is
# 0 on a CPU (0.03 without them); the bound leaves room for devices whose kernels are not so.
_CONTENT = 1e-4
_ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 1e-2}

_SHORT = 9  # tokens of the longest record where lengths play no part
_CROWD = 64  # units side by side, of an adapter so small that they fit into the memory below
_CROWD_NUMBERS = 1 << 24  # of the gradients of a crowd
_SMALL_COPY = 1 << 30  # bytes of a float32 copy beside a model on a CPU
_CHEAP = 300  # tokens of a record up to which both sides of a threshold get a row of their own
# Keys of a configuration whose values can be lengths at which a model changes its computation.
_LENGTH = re.compile(
    r"window|chunk|block_size|bucket|max_pos|original_max|max_seq|positions|ctx|length|_len\b|topk"
)
# Keys whose values are ids of tokens with a meaning of their own, which texts may hold.
_SPECIAL = re.compile(r"^(pad|bos|eos|sep|cls|mask|unk)_token_id$")
_PADDED = "engine.packed=false, "
# Of packed rows and a row for each record, whose products have other shapes.
_PACKING = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
_ADAPTER_STEP = 0.5  # of the random step from the initial adapter, relative to its spread


@dataclass(frozen=True, kw_only=True)
class Isolation:
    """What the probe measured, in units of C, for an update that is clipped to C.

    Attributes:
        rounding: largest L2 distance by which an update moved when the units around it changed.
        content: the same where lengths and numbers of units stayed as they were.
        packing: distance of packed rows to a row for each record; 0 where rows are not packed.
        lengths: tokens of the longest records of each comparison.
    """

    rounding: float
    content: float
    packing: float
    lengths: tuple[int, ...]


def probe(model: LanguageModel, seq_len: int) -> Isolation:
    """Compare units side by side with the same units alone.

    A model of low precision is probed a second time as a float32 copy, where it fits into memory:
    the rounding of bfloat16 hides what is smaller.

    Args:
        model: as it will train: device, precision, checkpointing and compilation included.
        seq_len: tokens of the longest record.

    Raises:
        ConfigurationError: a unit's update depends on the units beside it by more than rounding,
            or the model fails on a stack of units.
    """
    dtype = model.module.dtype
    with language_model.refused(f"{_name(model)} cannot be trained on several users at once"):
        result, content = _measure(model, seq_len), _CONTENT
        if dtype != torch.float32 and _copy_fits(model):
            exact, content = copy.deepcopy(model), torch.inf
            exact.graphs = False  # the copy is not compiled, and has shapes of its own
            exact.module.float()
            _hold(model, _measure(exact, seq_len), _ROUNDING[torch.float32], _CONTENT)
        _hold(model, result, _ROUNDING[dtype], content)
    return result


def _copy_fits(model: LanguageModel) -> bool:
    """Whether a float32 copy takes at most a third of the device's free memory."""
    tensors = (*model.module.parameters(), *model.module.buffers())
    needed: int = 4 * sum(tensor.numel() for tensor in tensors)
    if model.device.type == "cuda":
        return needed < float(torch.cuda.mem_get_info(model.device)[0]) / 3
    return needed < _SMALL_COPY


def _measure(model: LanguageModel, seq_len: int) -> Isolation:
    measured = _Measured(model, min(seq_len, _SHORT))
    content = max(measured.content())
    rounding = [content, *measured.short(), *measured.crowd(), *measured.own_adapters()]
    lengths, packing = [measured.longest], [0.0, *measured.packing(measured.longest)]
    for length in _lengths(model.config, seq_len):
        lengths.append(length)
        rounding += measured.beside_longer(length)
        packing += measured.packing(length)
    rounding += measured.again()
    return Isolation(
        rounding=max(rounding), content=content, packing=max(packing), lengths=tuple(lengths)
    )


def _hold(model: LanguageModel, result: Isolation, rounding: float, content: float) -> None:
    """Refuse a model whose measured distances exceed these bounds."""
    if not (result.rounding <= rounding and result.content <= content):
        raise ConfigurationError(
            f"model.path: {_name(model)} mixes users: what one adds to the sum moves by "
            f"{result.rounding:.2g} C with the texts beside it, so no clip bounds it; choose "
            f"{_PADDED if model.packed else ''}another model, or a smaller model.seq_len."
        )
    if not result.packing <= _PACKING[model.module.dtype]:
        raise ConfigurationError(
            f"engine.packed=true: {_name(model)} computes something else where several records are "
            f"in a row (by {result.packing:.2g} C); take engine.packed=false."
        )


def _name(model: LanguageModel) -> str:
    return f"this model ({model.config.model_type})"


class _Measured:
    """Distances between the updates of invented units of one model.

    Args:
        longest: tokens of the longest record of the short comparisons.
    """

    def __init__(self, model: LanguageModel, longest: int) -> None:
        self._model, self.longest = model, longest
        self._random = rng.generator(0, "isolation probe")
        self._adapters = [self._adapter() for _ in range(3)]
        longest, half = max(longest, 3), max(longest // 2, 2)
        self._units = [
            self._unit(half + 1, half), self._unit(longest, 2), self._unit(half, longest - 1)
        ]  # fmt: skip
        self._alone = [self._updates([unit])[0] for unit in self._units]

    def _adapter(self) -> Tensor:
        """(D,) float32: the initial adapter and a random step, as large for B as for A."""
        initial = self._model.initial
        step = torch.from_numpy(self._random.standard_normal(len(initial), np.float32))
        spread = initial[initial != 0].std() if initial.count_nonzero() > 1 else torch.tensor(0.1)
        return (initial + _ADAPTER_STEP * spread * step).to(self._model.device)

    def _unit(self, *lengths: int) -> Unit:
        """Records of random tokens of these lengths; the last token of a text is its class."""
        records = [self._random.integers(0, self._model.vocabulary, n) for n in lengths]
        if self._model.classes is not None:
            for record in records:
                record[:-1] = ~record[:-1]
                record[-1] = self._random.integers(0, self._model.classes)
        return records

    def _like(self, unit: Unit) -> Unit:
        return self._unit(*map(len, unit))

    def _special(self, unit: Unit) -> Unit:
        """A unit of the same lengths whose texts are special tokens alone, padding included."""
        config = self._model.config.to_dict()
        ids = {0} | {int(value) for key, value in config.items() if _is_id(key, value)}
        known = np.array(sorted(i for i in ids if 0 <= i < self._model.vocabulary))
        special = [np.resize(known, len(record)) for record in unit]
        if self._model.classes is not None:
            for record, like in zip(special, self._like(unit), strict=True):
                record[:-1], record[-1] = ~record[:-1], like[-1]
        return special

    def _updates(
        self, units: Sequence[Unit], adapters: Sequence[Tensor] = (), *, packed: bool = True
    ) -> Tensor:
        """(units, D) float64: each unit's gradient, with all records side by side.

        Args:
            adapters: (D,) of each unit; empty takes one for all.
            packed: whether rows may be packed, where the model does.
        """
        most = 10**9
        stacks = (
            self._model.stacks(units, most, one_adapter=not adapters)
            if packed
            else packing.stacks(units, most, self._model.shapes)
        )
        gradients = torch.zeros(len(units), self._model.layout.size, dtype=torch.float64)
        for stack in stacks:
            batch = self._model.load(stack)
            start = torch.stack(list(adapters))[batch.lanes] if adapters else self._adapters[0]
            rows, _ = self._model.gradients(start, batch)
            gradients.index_add_(0, batch.lanes.cpu(), rows.double().cpu())
        if not bool(gradients.norm(dim=1).isfinite().all()):
            raise ConfigurationError(
                f"model.path: {_name(self._model)} has gradients that are not finite; its weights "
                "are damaged, or its precision is too low."
            )
        return gradients

    def content(self) -> list[float]:
        """Distances of two units, where the one between them is replaced by its like."""
        first, middle, last = self._units
        one = self._updates([first, middle, last])
        found = []
        for other in (self._like(middle), self._special(middle)):
            found += _distances(one[[0, 2]], self._updates([first, other, last])[[0, 2]])
        return found

    def short(self) -> list[float]:
        """Distances to alone: side by side, and with one unit removed, others in another order."""
        first, middle, last = self._units
        alone = torch.stack(self._alone)
        return [
            *_distances(self._updates([first, middle, last]), alone),
            *_distances(self._updates([last, first]), alone[[2, 0]]),
        ]

    def crowd(self) -> list[float]:
        """Distance to alone in the midst of as many short units as fit."""
        count = min(_CROWD, max(4, _CROWD_NUMBERS // self._model.layout.size))
        units = [self._units[0], *(self._unit(4) for _ in range(count - 1))]
        return _distances(self._updates(units)[:1], self._alone[0][None])

    def own_adapters(self) -> list[float]:
        """Distances to alone, where every unit has an adapter of its own."""
        together = self._updates(self._units, self._adapters)
        alone = [
            self._updates([unit], [adapter])[0]
            for unit, adapter in zip(self._units, self._adapters, strict=True)
        ]
        return _distances(together, torch.stack(alone))

    def beside_longer(self, length: int) -> list[float]:
        """Distances to alone of a short unit and a nearly as long one, beside a record so long."""
        near = self._unit(length - 3) if self.longest + 3 < length <= _CHEAP else self._unit(4)
        units = [self._units[0], self._unit(length), near]
        together = self._updates(units)
        alone = [self._alone[0], *(self._updates([unit])[0] for unit in units[1:])]
        return _distances(together, torch.stack(alone))

    def packing(self, length: int) -> list[float]:
        """Distances of packed rows to a row for each record, one of this length among them.

        In float32 also where every unit has an adapter of its own. In a lower precision two ways to
        compute such a product differ as much as either does from float32.
        """
        if not self._model.packed:
            return []
        units = [self._units[0], self._unit(length, 4)]
        found = _distances(self._updates(units), self._updates(units, packed=False))
        if self._model.module.dtype == torch.float32:
            padded = self._updates(units, self._adapters[:2], packed=False)
            found += _distances(self._updates(units, self._adapters[:2]), padded)
        return found

    def again(self) -> list[float]:
        """Distances to alone once more: a model must not have kept what the texts since did."""
        return _distances(self._updates(self._units[:1]), self._alone[0][None])


def _distances(first: Tensor, second: Tensor) -> list[float]:
    """L2 distances of the clipped rows (units, D) in units of the clip norm, where it is worst.

    That is below both norms, where directions are compared, or at the larger one, where nothing is
    clipped: in between, the distance is convex in 1/C.
    """
    tiny = torch.finfo(torch.float64).tiny
    one, other = (rows.norm(dim=1, keepdim=True).clamp(min=tiny) for rows in (first, second))
    directions = (first / one - second / other).norm(dim=1)
    sizes = (first - second).norm(dim=1) / torch.maximum(one, other)[:, 0]
    distances: list[float] = torch.maximum(directions, sizes).tolist()
    return distances


def _lengths(config: Any, seq_len: int) -> list[int]:
    """Tokens of records that lie just beyond a threshold of the configuration, and the longest.

    A record of n tokens has n - 1 positions; a threshold of t positions is crossed by t + 2 tokens.
    """
    beyond = {t + 2 for t in _thresholds(config.to_dict()) if _SHORT < t + 2 < seq_len}
    return [*sorted(beyond), *([seq_len] if seq_len > _SHORT else [])]


def _thresholds(config: Mapping[str, Any]) -> Iterator[int]:
    """Whole numbers under keys of the configuration, at any depth, that can be lengths."""
    for key, value in config.items():
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, Mapping):
                yield from _thresholds(item)
            elif _LENGTH.search(str(key)) and isinstance(item, int) and not isinstance(item, bool):
                yield item


def _is_id(key: object, value: object) -> bool:
    return bool(_SPECIAL.match(str(key))) and isinstance(value, int)
