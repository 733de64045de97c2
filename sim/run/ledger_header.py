"""Builds the header of a run's ledger: every parameter of its mechanism, as public plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from userdp.server.mechanisms import header_facts, registry
from userdp.server.mechanisms.base import ZERO_OUT, Mechanism
from userdp.server.statement import statement, trust
from userdp.sim.common import foreign_code, renamed
from userdp.sim.config import optimizer
from userdp.sim.config.data import Data
from userdp.sim.config.settings import Settings
from userdp.sim.data import selection
from userdp.sim.planning.planner import Plan
from userdp.sim.runtime import registry as runtimes

_PACKAGES = ("userdp.sim", "userdp.clients", "userdp.server")
# Public facts about the data: they decide who a user is, and who is held out.
_PUBLIC_DATA = (
    *("user", "text", "prompt", "chat", "text_pair", "label"),
    *("split_column", "holdout"),
)
# Fields that only a header whose configuration asks for them has.
WHERE_ASKED = ("noise", "canaries", "secure_sum", "nodes_hold_records", "base_quantized")


def code(settings: Settings, mechanism: Mechanism) -> str:
    """Hash of the source code of userdp, and of the modules outside it that the run names.

    Changed code may resume a run; the ledger then records its hash.
    """
    names = [*settings.code_names.values(), mechanism.clipping]
    outside = [name for name in names if foreign_code.is_foreign(name)]
    return statement.code_hash(_PACKAGES, [name.rpartition(".")[0] for name in outside])


def header(
    settings: Settings,
    plan: Plan,
    *,
    layout: str,
    base: str,
    rescaled: bool = False,
    revision: str | None = None,
    dtype: str = "",
    keys: str = trust.AT_THE_SERVER,
) -> dict[str, Any]:
    """All parameters that must be the same for a run to be resumed.

    Args:
        layout: digest of the adapter's names and shapes.
        base: public name of the base model.
        rescaled: whether updates are multiplied by a scale, computed from releases, before the
            clip.
        revision: of the base model, where it comes from the hub.
        dtype: precision of the base model's weights.
        keys: where the private keys of secure sums are, in words of `trust`.
    """
    mechanism, strategy, data = plan.mechanism, settings.strategy, settings.data
    return {
        **_mechanism_names(strategy.name),
        **_users(settings, mechanism),
        "unit": "user" if data.user is not None else "record",
        "delta": plan.delta,
        "epsilon_target": plan.target,
        "rounds": plan.rounds,
        "accountant": plan.accountant,
        "group_bound": plan.group_bound if mechanism.group_size > 1 else None,
        **header_facts.of(mechanism),
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
        "split": data.split,
        "seeds_policy": "reproducible" if settings.privacy.reproducible else "secret",
        "drop_failed_nodes": settings.runtime.drop_failed_nodes,
        "classes": list(data.class_names) or None,
        **{"base_model": base, "adapter_layout": layout},
        **{
            "base_revision": revision,
            "base_dtype": dtype,
            "model": {"lora": vars(settings.model.lora)},
        },
        "data": _public_data(data),
        **_asked(mechanism, settings),
        **({"canaries": data.canaries} if data.canaries else {}),
        **_secure_sum(settings, keys),
        **_nodes_hold_records(settings) | _base_quantized(settings),
    }


def _public_data(data: Data) -> dict[str, Any]:
    fields = {name: getattr(data, name) for name in _PUBLIC_DATA}
    return {"format": data.described_format, **fields}


def _asked(mechanism: Mechanism, settings: Settings) -> dict[str, Any]:
    """What `userdp verify` builds the mechanism from once more, beside the fields above."""
    return {"cohort": mechanism.cohort, "strategy_options": dict(settings.strategy.options)}


def _secure_sum(settings: Settings, keys: str) -> dict[str, Any]:
    """Who could read single nodes' sums: the one field that a run with secure sums has more.

    All else is the same: masks change no sensitivity, no noise and no event.
    """
    runtime = settings.runtime
    if not runtime.secure_sum:
        return {}
    made_here = runtime.keys is None  # by the process of the server
    found = trust.AT_THE_SERVER if made_here else keys
    return {"secure_sum": {"nodes": runtime.nodes, "keys": found}}


def _nodes_hold_records(settings: Settings) -> dict[str, Any]:
    """Of a deployment: the cut that its nodes' records are of, None where the server has no part.

    Nodes of another cut cannot go on with the run.
    """
    if not runtimes.holds_records(settings.runtime.kind):
        return {}
    origin = settings.data.origin
    return {"nodes_hold_records": {"cut": None if origin is None else origin.cut}}


def _base_quantized(settings: Settings) -> dict[str, Any]:
    """What the base model's linear layers are quantised to, where they are."""
    kind = settings.model.quantize
    return {} if kind is None else {"base_quantized": kind}


def continued(
    header: Mapping[str, Any], stored: Mapping[str, Any], *, counted: bool
) -> dict[str, Any]:
    """The header of a resumed run in the words of its ledger, where an older version wrote that.

    Older ledgers have no ``split``, which is "user" there; they state a counted N under the
    mechanism's own adjacency, and write an optimiser as Hydra does.

    Args:
        header: of the run that resumes.
        stored: of its ledger.
        counted: whether the run that resumes declares no N.
    """
    asked, stored = dict(header), renamed.current(stored)
    if optimizer.current(stored.get("optimizer")) == asked["optimizer"]:
        asked["optimizer"] = stored["optimizer"]
    if "split" in stored:
        return asked
    if asked["split"] == "user":
        del asked["split"]
    if counted and stored.get("users_counted"):
        asked |= {name: stored.get(name) for name in ("users_counted", "adjacency")}
    return asked


def _mechanism_names(given: str) -> dict[str, str]:
    """The mechanism's name, and the hash of its module where it is outside userdp.

    The guarantee of such a mechanism rests on code that was not tested here.
    """
    name = registry.MECHANISMS.name_of(given)
    if not foreign_code.is_foreign(name):
        return {"strategy": name}
    code_of_module = statement.code_hash([], [name.rpartition(".")[0]])
    return {"strategy": name, "mechanism_code": code_of_module}


def _users(settings: Settings, mechanism: Mechanism) -> dict[str, Any]:
    """N, and which populations are neighbours: of a counted N, those that leave it as it is."""
    counted = settings.counts_users
    return {
        "declared_users": mechanism.users,
        "users_counted": counted,
        "adjacency": ZERO_OUT if counted else mechanism.adjacency,
    }
