"""Builds the header of a run's ledger: every parameter of its mechanism, as public plain values."""

from __future__ import annotations

import math
from typing import Any

from userdp.server.mechanisms.base import Mechanism
from userdp.server.mechanisms.noise_grid import FLOAT
from userdp.server.statement import statement
from userdp.sim.config.settings import Settings
from userdp.sim.data import selection
from userdp.sim.planning.planner import Plan

_PACKAGES = ("userdp.sim", "userdp.clients", "userdp.server")
_INSIDE = ("userdp.", "torch.")  # hashed as a package, or named by the version of a library


def code(settings: Settings, mechanism: Mechanism) -> str:
    """Hash of the source code of userdp, and of the modules outside it that the run names.

    Changed code may resume a run; the ledger then records its hash.
    """
    names = (
        *(settings.strategy.name, settings.privacy.accountant, settings.selection.rule),
        *(settings.data.format, settings.runtime.kind, settings.optimizer["_target_"]),
        mechanism.clipping,
    )
    outside = [name for name in names if "." in name and not name.startswith(_INSIDE)]
    return statement.code_hash(_PACKAGES, [name.rpartition(".")[0] for name in outside])


def header(
    settings: Settings, plan: Plan, *, layout: str, base: str, rescaled: bool = False
) -> dict[str, Any]:
    """All parameters that must be the same for a run to be resumed.

    Args:
        layout: digest of the adapter's names and shapes.
        base: public name of the base model.
        rescaled: whether updates are multiplied by a scale, computed from releases, before the
            clip.
    """
    mechanism, strategy, data = plan.mechanism, settings.strategy, settings.data
    return {
        "strategy": strategy.name,
        "unit": "user" if data.user is not None else "record",
        "clipped_unit": mechanism.unit,
        "adjacency": mechanism.adjacency,
        "declared_users": mechanism.users,
        "users_counted": settings.privacy.users is None,
        "delta": plan.delta,
        "epsilon_target": plan.target,
        "rounds": plan.rounds,
        "accountant": plan.accountant,
        "group_bound": plan.group_bound if mechanism.group_size > 1 else None,
        "event": dict(mechanism.ledger_event()),
        "rounds_per_event": mechanism.rounds_per_event,
        "mechanism_details": dict(mechanism.details()),
        "clip_norm": mechanism.clip_norm if math.isfinite(mechanism.clip_norm) else None,
        "adaptive_clip": _adaptive_clip(mechanism),
        "denominator": mechanism.expected_units,
        "sampling_scheme": mechanism.sampling_scheme,
        "cohort_cap": mechanism.cohort_cap,
        "records_per_user": strategy.records_per_user,
        "resample": strategy.resample,
        "rescaled": rescaled,
        "records_bounded": False,  # a user may have more than k records
        "chunks_cross_records": selection.RULES.find(settings.selection.rule).crosses_records,
        "selection": settings.selection.rule,
        "seq_len": settings.model.seq_len,
        "local_steps": strategy.local_steps,
        "local_lr": strategy.local_lr,
        "optimizer": dict(settings.optimizer),
        "schedule": vars(settings.schedule),
        "seed": settings.seed,
        "data_seed": data.seed,
        "seeds_policy": "reproducible" if settings.privacy.reproducible else "secret",
        "drop_failed_nodes": settings.runtime.drop_failed_nodes,
        "classes": list(data.class_names) or None,
        **{"base_model": base, "adapter_layout": layout},
        **_unless_default(canaries=(data.canaries, 0), noise=(mechanism.noise, FLOAT)),
    }


def _unless_default(**fields: tuple[Any, Any]) -> dict[str, Any]:
    """Fields that ledgers of earlier versions lack, each with its value and its default."""
    return {name: value for name, (value, default) in fields.items() if value != default}


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
