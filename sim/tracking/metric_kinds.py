"""What kind of number every metric is: the one table from key to type.

- public: configuration, what follows from it, and scores on users declared public for evaluation;
- released: computed from what an event in the ledger covers;
- simulation_only: computed from private data without noise. Off by default, and under a prefix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum

Value = float | int | str | bool | None


class Kind(Enum):
    PUBLIC = "public"
    RELEASED = "released"
    SIMULATION_ONLY = "simulation_only"


KINDS: Mapping[str, Kind] = {
    "round": Kind.PUBLIC,
    "epsilon": Kind.PUBLIC,  # certified upper value after the rounds so far
    "epsilon_lower": Kind.PUBLIC,
    "epsilon_budget": Kind.PUBLIC,
    "delta": Kind.PUBLIC,
    "noise_multiplier": Kind.PUBLIC,
    "noise_std": Kind.PUBLIC,  # on the sum
    "noise_std_on_mean": Kind.PUBLIC,
    "clip_norm": Kind.RELEASED,  # constant, or what earlier unclipped fractions made of it
    "unclipped_fraction": Kind.RELEASED,  # noised, where the clip norm adapts
    "learning_rate": Kind.PUBLIC,
    "heldout_loss": Kind.PUBLIC,  # mean negative log likelihood of a token or a class, nats
    "heldout_perplexity": Kind.PUBLIC,
    "heldout_accuracy": Kind.PUBLIC,  # share of held-out records whose class was found
    "heldout_majority": Kind.PUBLIC,  # the same, of answering their commonest class
    "heldout_loss_before": Kind.PUBLIC,
    "heldout_perplexity_before": Kind.PUBLIC,
    "heldout_accuracy_before": Kind.PUBLIC,
    "test_statistic": Kind.RELEASED,  # noised, of the concentration test
    "test_passed": Kind.RELEASED,
    "test_pass_rate": Kind.RELEASED,  # share of the rounds that passed
    "release_norm": Kind.RELEASED,  # L2 norm of the noised mean
    "signal_norm": Kind.RELEASED,  # sqrt(max(0, release_norm^2 - D noise_std_on_mean^2))
    "signal_to_noise": Kind.RELEASED,
    "seconds_round": Kind.SIMULATION_ONLY,  # depends on who was in the cohort
    "seconds_run": Kind.SIMULATION_ONLY,
    "tokens_per_second": Kind.SIMULATION_ONLY,
    "clipped_fraction": Kind.SIMULATION_ONLY,
    "train_loss": Kind.SIMULATION_ONLY,
    "mean_update_norm": Kind.SIMULATION_ONLY,
    "cohort_size": Kind.SIMULATION_ONLY,
    "failed_units": Kind.SIMULATION_ONLY,
    "records_used": Kind.SIMULATION_ONLY,
    "tokens_used": Kind.SIMULATION_ONLY,
    "true_test_statistic": Kind.SIMULATION_ONLY,  # of the concentration test, without its noise
    "true_test_passed": Kind.SIMULATION_ONLY,  # whether that reaches min_weight
    "concentrated_weight": Kind.SIMULATION_ONLY,  # W
    "kept_fraction": Kind.SIMULATION_ONLY,  # share of the cohort that has weight
    "canary_exposure": Kind.SIMULATION_ONLY,  # bits, mean over the canaries
    "canary_exposure_before": Kind.SIMULATION_ONLY,
    "users_real": Kind.SIMULATION_ONLY,
    "records_real": Kind.SIMULATION_ONLY,
    "records_dropped": Kind.SIMULATION_ONLY,
}


def kind(key: str) -> Kind:
    """The type of a metric.

    Raises:
        ValueError: the table does not know the key.
    """
    if key not in KINDS:
        raise ValueError(f"Metric {key!r} has no declared type; add it to the table of metrics.")
    return KINDS[key]


def typed(
    values: Mapping[str, Value], simulation_only: Mapping[str, Value], *, keep: bool
) -> dict[str, Value]:
    """What a tracker may write: ``values``, and with ``keep`` the rest under its prefix.

    Both are checked either way, so that a wrong type shows in every run. Infinity and NaN, which
    JSON has not, become None.

    Raises:
        ValueError: a key is unknown, or is passed as what it is not.
    """
    for key in values:
        if kind(key) is Kind.SIMULATION_ONLY:
            raise ValueError(f"Metric {key!r} sees private data: pass it as simulation_only.")
    for key in simulation_only:
        if kind(key) is not Kind.SIMULATION_ONLY:
            raise ValueError(f"Metric {key!r} is {kind(key).value}, not simulation_only.")
    kept = {f"simulation_only/{key}": value for key, value in simulation_only.items() if keep}
    return {key: _finite(value) for key, value in {**values, **kept}.items()}


def _finite(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value
