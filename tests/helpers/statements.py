"""Ledger headers, claims and the statements built from them, for tests that change one field."""

from __future__ import annotations

import math

from userdp.server.statement import claim as claims
from userdp.server.statement import statement

EVENT = {"sampling_rate": 0.01, "noise_multiplier": 1.05, "group_size": 1}
HEADER = {
    "strategy": "user_wise",
    "unit": "user",
    "clipped_unit": "user",
    "adjacency": "add-or-remove-one-user",
    "declared_users": 2484,
    "users_counted": False,
    "delta": 1e-5,
    "event": EVENT,
    "clip_norm": 0.5,
    "adaptive_clip": None,
    "denominator": 24.84,
    "sampling_scheme": "poisson",
    "cohort_cap": None,
    "records_per_user": 2,
    "resample": False,
    "rescaled": False,
    "records_bounded": False,
    "chunks_cross_records": False,
    "local_steps": 1,
    "selection": "random",
    "group_bound": None,
    "seeds_policy": "secret",
    "drop_failed_nodes": False,
    "rounds_per_event": 1,
    "mechanism_details": {},
}
GROUP = {
    **HEADER,
    "strategy": "group_privacy",
    "clipped_unit": "record_slot",
    "group_bound": "mixture",
    "records_bounded": True,
}


def claim(**changes):
    """A claim of a user-wise run; ``changes`` replace its fields."""
    figures = {
        "epsilon": 2.12453712345,
        "epsilon_lower": 2.11002345678,
        "accountant": "pld",
        "accountant_version": "dp-accounting 0.6.0",
        "certified": True,
        "epsilon_at_deltas": {1e-6: 2.9, 1e-5: 2.12453712345},
    }
    return claims.Claim(**{**figures, **changes})


def built(header=HEADER, rounds=30, figures=None, **options):
    """The statement of a ledger with this header and so many rounds; ``figures``: its claim."""
    spent = [(header["event"], rounds)]
    options = {"ledger_hash": "1ed6e4", "codes": ["c0de"], **options}
    return statement.build(header, spent, figures or claim(), **options)


NON_PRIVATE = {
    **HEADER,
    "strategy": "non_private",
    "event": {**EVENT, "noise_multiplier": 0.0},
    "clip_norm": None,
    "delta": None,
}
NOTHING = {"epsilon": math.inf, "epsilon_lower": math.inf, "epsilon_at_deltas": {}}
RECORDS = {**HEADER, "unit": "record", "records_per_user": 1}
