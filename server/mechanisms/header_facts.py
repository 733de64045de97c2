"""The facts of a mechanism in a ledger's header: from the mechanism to them, and back again.

The way back is what makes a header checkable: event, denominator and sensitivity follow from a few
numbers, so a header in which one of them was edited contradicts the mechanism built from the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from userdp.server.ledger.query import Query
from userdp.server.mechanisms import registry
from userdp.server.mechanisms.adaptive_clip import AdaptiveClip
from userdp.server.mechanisms.base import Mechanism
from userdp.server.mechanisms.noise_grid import DISCRETE, FLOAT


def of(mechanism: Mechanism) -> dict[str, Any]:
    """The fields of a header that follow from the mechanism alone."""
    return {
        "clipped_unit": mechanism.unit,
        "event": dict(mechanism.ledger_event()),
        "rounds_per_event": mechanism.rounds_per_event,
        "mechanism_details": dict(mechanism.details()),
        "clip_norm": mechanism.clip_norm if math.isfinite(mechanism.clip_norm) else None,
        "adaptive_clip": _adaptive_clip(mechanism),
        "denominator": mechanism.expected_units,
        "sampling_scheme": mechanism.sampling_scheme,
        "cohort_cap": mechanism.cohort_cap,
        # Without this field, as in all ledgers of versions before it, noise is float.
        **({"noise": mechanism.noise} if mechanism.noise == DISCRETE else {}),
    }


def _adaptive_clip(mechanism: Mechanism) -> dict[str, float] | None:
    """Parameters of the adaptive clip norm, and of the split of z; None if C is fixed."""
    rule = mechanism.adaptive
    if rule is None:
        return None
    return {
        "quantile": rule.quantile,
        "learning_rate": rule.learning_rate,
        "bit_noise_std": rule.bit_std(mechanism.expected_units),
        "update_noise_multiplier": mechanism.update_multiplier,
    }


def mechanism(header: Mapping[str, Any]) -> Mechanism:
    """The mechanism of a header, built from users, cohort, k, C, z and the strategy's options.

    Nothing else is taken over: what `of` says of the result is recomputed.

    Raises:
        ConfigurationError: there is no such mechanism, or a parameter is out of its range.
        KeyError: the header lacks a field.
        TypeError, ValueError: a field has a value of the wrong type.
    """
    k, adaptive = header["records_per_user"], header["adaptive_clip"]
    kind, options = registry.find(header["strategy"]), dict(header["strategy_options"])
    if unknown := set(options) - set(kind.options()):
        raise ValueError(f"strategy={header['strategy']} has no option {min(unknown)}")
    if header["clip_norm"] is not None:
        options["clip_norm"] = header["clip_norm"]
    built = kind(
        users=header["declared_users"],
        cohort=header["cohort"],
        records_per_user=0 if k == "all" else k,
        noise_multiplier=header["event"]["noise_multiplier"],
        noise=header.get("noise", FLOAT),
        **options,
    ).for_run(rounds=header["rounds"], delta=header["delta"], epsilon=header["epsilon_target"])
    if adaptive is None:
        return built
    rule = AdaptiveClip(
        quantile=adaptive["quantile"],
        learning_rate=adaptive["learning_rate"],
        bit_noise=adaptive["bit_noise_std"],
    )
    return replace(built, adaptive=rule)


def queries(mechanism: Mechanism, stored: Sequence[Mapping[str, Any]]) -> Sequence[Query]:
    """The queries that a round of the mechanism must have, at the clip norm of the stored ones.

    Only where the clip norm adapts is it taken from the stored queries, of which the first is that
    of the updates.
    """
    if mechanism.adaptive is not None and stored:
        mechanism = replace(mechanism, clip_norm=stored[0]["sensitivity"])
    return mechanism.queries()
