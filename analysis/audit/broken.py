"""Broken twins of a subject, each with one fault, under the claim of the honest one.

A twin of a mechanism is a subclass of its class with one method replaced; a twin of the engine has
another clip rule. Both are audited by the code that audits the honest subject.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy import special
from torch import Tensor

from userdp.analysis.audit.subject import Subject
from userdp.clients.training import clipping
from userdp.clients.training.clipping import ClippedSum
from userdp.server.mechanisms import noise_grid, sampling
from userdp.server.mechanisms.base import RECORD_SLOT, Mechanism, Release
from userdp.sim.common import rng
from userdp.sim.protocol.cohort_sum import CohortSum
from userdp.sim.protocol.contract import Assignment
from userdp.sim.protocol.layout import Layout

_LEAK = 0.5  # share of a lane's update that reaches the next lane


def twins(subject: Subject) -> list[Subject]:
    """Every broken twin that this mechanism can have."""
    return [twin for make in KINDS.values() if (twin := make(subject)) is not None]


def _twin(subject: Subject, kind: str, **methods: Any) -> Subject:
    """The subject with some methods of its mechanism replaced."""
    cls = type(subject.mechanism)
    mechanism = copy.copy(subject.mechanism)
    object.__setattr__(mechanism, "__class__", type(f"Broken{cls.__name__}", (cls,), methods))
    return replace(subject, name=kind, mechanism=mechanism)


class _Weak:
    """A stream whose normals are a fraction of what they should be."""

    def __init__(self, stream: rng.SecretStream, fraction: float) -> None:
        self._stream, self._fraction = stream, fraction

    def words(self, size: int) -> np.ndarray:
        """(size,) uint64 of sign and tail that `rng.standard_normal` turns into smaller normals."""
        normals = self._fraction * rng.standard_normal(self._stream, size)
        tails = (special.ndtr(-np.abs(normals)) * 2.0**64).astype(np.uint64)
        tails = np.minimum(tails, rng.ALL_BUT_SIGN)
        words: np.ndarray = np.where(normals > 0, tails | ~rng.ALL_BUT_SIGN, tails)
        return words


def _less_noise(subject: Subject, fraction: float, kind: str) -> Subject:
    cls = type(subject.mechanism)

    def release(
        self: Mechanism, cohort: CohortSum, stream: rng.SecretStream, number: int
    ) -> Release:
        return cls.release(self, cohort, _Weak(stream, fraction), number)

    offered = noise_grid.is_offered(cls)  # a class with a release of its own says so anew
    return _twin(subject, kind, release=release, discrete_noise=offered)


def _third_of_noise(subject: Subject) -> Subject:
    return _less_noise(subject, 1 / 3, "noise / 3")


def _little_less_noise(subject: Subject) -> Subject:
    return _less_noise(subject, 0.97, "noise 3 % short")


def _no_clip(subject: Subject) -> Subject:
    def clip(rows: Tensor, clip_norm: float, layout: Layout) -> ClippedSum:
        wide = rows.double()
        ones = torch.ones(len(rows), 1, dtype=torch.float64)
        return ClippedSum(wide.sum(0), torch.linalg.vector_norm(wide, dim=1), rows, ones)

    return replace(subject, name="clip off", clip=clip)


def _leaking_lanes(subject: Subject) -> Subject:
    rule = clipping.find(subject.mechanism.clipping)

    def clip(rows: Tensor, clip_norm: float, layout: Layout) -> ClippedSum:
        return rule(rows + _LEAK * rows.roll(1, 0), clip_norm, layout)

    return replace(subject, name="lanes that leak", clip=clip)


def _has_coins(subject: Subject) -> bool:
    """Whether each round tosses a coin for every position, and all heads take part."""
    plain = subject.event.cohort_cap is None and subject.mechanism.rounds_per_event == 1
    return plain and subject.event.sampling_rate < 1


def _assignment(mechanism: Mechanism, positions: np.ndarray) -> Assignment:
    """The units at these positions, as the mechanism assigns them."""
    if mechanism.unit == RECORD_SLOT:
        return Assignment(*divmod(positions, mechanism.group_size))
    return Assignment(positions, np.empty(0, np.int64))


def _fixed_cohort(subject: Subject) -> Subject | None:
    def draw(self: Mechanism, stream: rng.SecretStream, number: int) -> Assignment:
        everyone = np.arange(self.users * self.group_size)
        chosen = sampling.random_subset(stream, everyone, round(self.expected_units))
        return _assignment(self, chosen)

    return _twin(subject, "fixed cohort", draw=draw) if _has_coins(subject) else None


def _with_replacement(subject: Subject) -> Subject | None:
    def draw(self: Mechanism, stream: rng.SecretStream, number: int) -> Assignment:
        words = stream.words(round(self.expected_units))
        positions = (words % np.uint64(self.users * self.group_size)).astype(np.int64)
        return _assignment(self, np.sort(positions))

    return _twin(subject, "with replacement", draw=draw) if _has_coins(subject) else None


def _user_twice(subject: Subject) -> Subject:
    cls = type(subject.mechanism)

    def draw(self: Mechanism, stream: rng.SecretStream, number: int) -> Assignment:
        once = cls.draw(self, stream, number)
        return Assignment(np.repeat(once.users, 2), np.repeat(once.slots, 2))

    return _twin(subject, "a user twice", draw=draw)


KINDS: Mapping[str, Callable[[Subject], Subject | None]] = {
    "noise / 3": _third_of_noise,
    "noise 3 % short": _little_less_noise,
    "clip off": _no_clip,
    "fixed cohort": _fixed_cohort,
    "with replacement": _with_replacement,
    "a user twice": _user_twice,
    "lanes that leak": _leaking_lanes,
}
