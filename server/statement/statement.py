"""Builds a run's privacy statement from its ledger's header and the accountant's claim.

No accounting happens in this module: the composition comes from the ledger, epsilon from `claim`.
`schema.FIELDS` lists the fields of a statement. Its English text comes from `prose` and from the
mechanism that the statement describes.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from userdp.server.mechanisms import registry
from userdp.server.mechanisms.noise_grid import FLOAT
from userdp.server.statement import conditions, prose, schema, trust
from userdp.server.statement.claim import Claim

# Fields of the ledger's header that a statement is built from.
HEADER_FIELDS = (
    *("strategy", "clipped_unit", "adjacency", "declared_users", "users_counted", "delta"),
    *("event", "clip_norm", "adaptive_clip", "denominator", "sampling_scheme", "cohort_cap"),
    *("records_per_user", "resample", "rescaled", "records_bounded", "chunks_cross_records"),
    *("local_steps", "selection", "group_bound", "seeds_policy", "drop_failed_nodes"),
    *("rounds_per_event", "mechanism_details", "unit"),
)


def build(
    header: Mapping[str, Any],
    spent: Sequence[tuple[Mapping[str, Any], int]],
    claim: Claim,
    *,
    ledger_hash: str,
    codes: Sequence[str],
    simulation_only: bool = False,
    files: Mapping[str, str] | None = None,
    released: Sequence[str] = conditions.RELEASED,
    sweep: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The statement of a run: the content of ``privacy_statement.json``.

    Args:
        header: of the ledger, with every name of ``HEADER_FIELDS``; also with ``split`` (else
            whole users are held out), with ``simulated_cohort`` where noise was scaled for a cohort
            that was not run, with ``canaries`` where users were planted, with ``mechanism_code``
            where the mechanism is of another package, with ``noise`` where it is not float, with
            ``secure_sum`` where nodes masked their sums, and with ``base_quantized`` where the base
            model is.
        spent: the ledger's composition, which gives the number of rounds.
        claim: for that same composition.
        ledger_hash: hash of the ledger's last entry.
        codes: hashes of the code that started the run and, where it changed, that resumed it.
        simulation_only: whether any process of the run ever wrote values without noise, as the
            ledger's notes say.
        files: SHA-256 of the files that the run published, by path in its folder.
        released: what the run published, beside what the mechanism adds.
        sweep: facts about the sweep that the run belongs to, if any.

    Raises:
        ConfigurationError: there is no mechanism of the header's name.
        ValueError: the header lacks a field, rounds of another event were spent, or fields
            contradict each other.
    """
    lacking = [name for name in HEADER_FIELDS if name not in header]
    if lacking:
        raise ValueError(f"The ledger's header lacks {', '.join(lacking)}.")
    event = header["event"]
    if any(other != event for other, _ in spent):
        raise ValueError(f"The ledger spent other events than the header's {event=}.")
    reasons = not_private_reasons(header)
    statement = {name: header[name] for name in HEADER_FIELDS if name in schema.FIELDS} | {
        "format": schema.FORMAT,
        "private": not reasons,
        "reasons": reasons,
        "trust_model": trust.model(header),
        "noise_multiplier": event["noise_multiplier"],
        "sampling": _sampling(header),
        "rounds": sum(count for _, count in spent),
        "record_level": _is_record_level(header, claim),
        "released": [
            *conditions.released(header, released),
            *registry.describing(header["strategy"]).also_released(header),
        ],
        "assumptions": _assumptions(header),
        "not_covered": [
            *schema.NOT_COVERED,
            conditions.held_out(header),
            *([schema.RECORDS] if header["unit"] == "record" else []),
            *([schema.SIMULATION_ONLY] if simulation_only else []),
        ],
        "code_hash": ", then ".join(codes),
        "ledger_hash": ledger_hash,
        "simulation_only": simulation_only,
        "files": dict(files or {}),
        "sweep": dict(sweep) if sweep is not None else None,
        **_figures(claim),
    }
    statement = {name: statement[name] for name in schema.FIELDS}
    schema.validate(statement)
    return statement


def not_private_reasons(header: Mapping[str, Any]) -> list[str]:
    """Why a run with this ledger's header is not private; empty when it is."""
    reasons = []
    if header["event"]["noise_multiplier"] == 0:
        reasons.append(f"strategy={header['strategy']} adds no noise")
    if header["seeds_policy"] == "reproducible":
        reasons.append("privacy.reproducible=true derives coins and noise from a seed")
    simulated = header.get("simulated_cohort")
    if simulated is not None and simulated != header["denominator"]:
        reasons.append(
            f"noise was scaled for a cohort of {simulated}, but {header['denominator']} was run"
        )
    return reasons


def _figures(claim: Claim) -> dict[str, Any]:
    deltas = sorted(claim.epsilon_at_deltas.items())
    slot = claim.slot_epsilon
    return {
        "epsilon": prose.round_up(claim.epsilon),
        "epsilon_lower": prose.round_down(claim.epsilon_lower),
        "epsilon_at_deltas": {repr(delta): prose.round_up(epsilon) for delta, epsilon in deltas},
        "slot_epsilon": None if slot is None else prose.round_up(slot),
        "accountant": claim.accountant,
        "accountant_version": claim.accountant_version,
    }


def _sampling(header: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "scheme": header["sampling_scheme"],
        "rate": header["event"]["sampling_rate"],
        "expected_cohort": header["denominator"],
        "cap": header["cohort_cap"],
    }


def _is_record_level(header: Mapping[str, Any], claim: Claim) -> bool:
    """Whether one record changes one slot at most, so that ``slot_epsilon`` is record-level."""
    one_slot_a_record = header["records_bounded"] and not header["resample"]
    return (
        claim.slot_epsilon is not None
        and header["clipped_unit"] == "record_slot"
        and one_slot_a_record
        and not header["chunks_cross_records"]
    )


def _assumptions(header: Mapping[str, Any]) -> list[str]:
    assumptions = ["every record is filed under exactly one user id", _noise(header)]
    if header["seeds_policy"] == "secret":
        assumptions.append(
            "cohort coins and noise come from the operating system's entropy and stay secret"
        )
    if dtype := header.get("base_dtype"):
        assumptions.append(_isolation(dtype))
    if kind := header.get("base_quantized"):
        assumptions.append(
            f"the linear layers of the frozen base model are quantised to {kind}, each by its own "
            "weights alone and before the first round: no user's data moves a scale"
        )
    assumptions += conditions.assumptions(header)
    if planted := header.get("canaries"):
        assumptions.append(
            f"{planted} of the declared users are canaries: invented, and planted to measure what "
            "training remembers (data.canaries); a run with them is a simulation"
        )
    assumptions += registry.describing(header["strategy"]).assumptions(header)
    if header["drop_failed_nodes"]:
        assumptions.append(
            "runtime.drop_failed_nodes=true: whether a node fails does not depend on users' data"
        )
    return assumptions


def _noise(header: Mapping[str, Any]) -> str:
    """What the noise is; ledgers of versions that had float noise alone do not say so."""
    if header.get("noise", FLOAT) == FLOAT:
        return (
            "noise is drawn in double-precision floating point: the gap to real numbers "
            "(Mironov, CCS 2012) is not closed"
        )
    return (
        "noise is discrete: a node rounds each clipped update towards zero to a public grid, and "
        "the release is the real Gaussian mechanism's, rounded to that grid (docs/noise.md)"
    )


def _isolation(dtype: str) -> str:
    """How a user's update may depend on the users that are computed beside it."""
    checked = "a check of this model before the run refuses more (docs/models.md)"
    if dtype == "float32":
        return (
            "the update of a user depends on the users computed beside it by the rounding of "
            f"float32 alone; {checked}"
        )
    return (
        f"the update of a user, computed in {dtype} at shapes that follow from the user's own "
        f"records, does not depend on the users computed beside it; {checked}"
    )


def code_hash(packages: Iterable[str], modules: Iterable[str] = ()) -> str:
    """SHA-256 over the names and contents of all Python files of packages, and of single modules.

    Raises:
        ValueError: a package or a module cannot be found.
    """
    total = hashlib.sha256()
    for package in sorted(packages):
        folder = _file_of(package).parent
        for file in sorted(folder.rglob("*.py")):
            total.update(_hashed(f"{package}/{file.relative_to(folder).as_posix()}", file))
    for module in sorted(set(modules)):
        total.update(_hashed(module, _file_of(module)))
    return total.hexdigest()


def _file_of(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ValueError(f"No package or module {name!r} to hash.")
    return Path(spec.origin)


def _hashed(name: str, file: Path) -> bytes:
    return f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode()
