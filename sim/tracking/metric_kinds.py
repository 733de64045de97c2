"""The table of metrics: the privacy kind of each, and how it is computed from clients' sums.

- public: configuration, what follows from it, and scores on users declared public for evaluation;
- released: computed from what an event in the ledger covers;
- simulation_only: computed from private data without noise; off by default, and under a prefix.

A new metric needs a line in this table, and the code that computes it. A package outside userdp
adds its metrics with `declare`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

Value = float | int | str | bool | None


class Kind(Enum):
    """Who may see a metric."""

    PUBLIC = "public"
    RELEASED = "released"
    SIMULATION_ONLY = "simulation_only"


@dataclass(frozen=True)
class Metric:
    """The privacy kind of a metric, and whether clients' sums are divided by the units."""

    kind: Kind
    per_unit: bool = False  # the clients' sum over ``cohort_size``; else the sum itself


_PUBLIC, _RELEASED, _SIMULATED = map(Metric, Kind)
_SIMULATED_MEAN = Metric(Kind.SIMULATION_ONLY, per_unit=True)

METRICS: dict[str, Metric] = {
    "round": _PUBLIC,
    "epsilon": _PUBLIC,  # certified upper value after the rounds so far
    "epsilon_lower": _PUBLIC,
    "epsilon_budget": _PUBLIC,
    "delta": _PUBLIC,
    "noise_multiplier": _PUBLIC,
    "noise_std": _PUBLIC,  # on the sum
    "noise_std_on_mean": _PUBLIC,
    "clip_norm": _RELEASED,  # constant, or computed from earlier unclipped fractions
    "unclipped_fraction": _RELEASED,  # noised, where the clip norm adapts
    "learning_rate": _PUBLIC,
    "heldout_loss": _PUBLIC,  # mean negative log likelihood of a token or a class, nats
    "heldout_perplexity": _PUBLIC,
    "heldout_accuracy": _PUBLIC,  # share of held-out records whose class was predicted
    "heldout_majority": _PUBLIC,  # accuracy of always answering their commonest class
    "heldout_token_accuracy": _PUBLIC,  # share of predicted held-out tokens that are the likeliest
    "heldout_bits_per_byte": _PUBLIC,  # loss in bits over bytes of text, for any tokenizer
    "heldout_rouge_l": _PUBLIC,  # mean F1 of greedy answers to held-out prompts
    "heldout_loss_before": _PUBLIC,
    "heldout_perplexity_before": _PUBLIC,
    "heldout_accuracy_before": _PUBLIC,
    "heldout_token_accuracy_before": _PUBLIC,
    "heldout_bits_per_byte_before": _PUBLIC,
    "heldout_rouge_l_before": _PUBLIC,
    "test_statistic": _RELEASED,  # noised, of the concentration test
    "test_passed": _RELEASED,
    "test_pass_rate": _RELEASED,  # share of the rounds that passed
    "samples": _RELEASED,  # texts by the released adapter, after public prompts
    "release_norm": _RELEASED,  # L2 norm of the noised mean
    "signal_norm": _RELEASED,  # sqrt(max(0, release_norm^2 - D noise_std_on_mean^2))
    "signal_to_noise": _RELEASED,
    "seconds_round": _SIMULATED,  # depends on who was in the cohort
    "seconds_run": _SIMULATED,
    "tokens_per_second": _SIMULATED,
    "cohort_size": _SIMULATED,  # units with records
    "failed_units": _SIMULATED,
    "records_used": _SIMULATED,
    "tokens_used": _SIMULATED,
    "clipped_fraction": _SIMULATED_MEAN,  # of the units: norm beyond C
    "mean_update_norm": _SIMULATED_MEAN,  # before the clip, of finite updates
    "train_loss": _SIMULATED_MEAN,  # mean over units of the mean loss of their records
    "true_test_statistic": _SIMULATED,  # of the concentration test, without its noise
    "true_test_passed": _SIMULATED,  # whether that reaches min_weight
    "concentrated_weight": _SIMULATED,  # W
    "kept_fraction": _SIMULATED,  # share of the cohort that has weight
    "canary_exposure": _SIMULATED,  # bits, mean over the canaries
    "canary_exposure_before": _SIMULATED,
    "users_real": _SIMULATED,
    "records_real": _SIMULATED,
    "records_dropped": _SIMULATED,
}


def declare(key: str, metric: Metric) -> None:
    """Add a metric of a package outside userdp.

    Raises:
        ValueError: the table has another metric under this key.
    """
    if METRICS.setdefault(key, metric) != metric:
        raise ValueError(f"Metric {key!r} is declared already, as {METRICS[key].kind.value}.")


def metric(key: str) -> Metric:
    """The entry of a metric.

    Raises:
        ValueError: the table has no such key.
    """
    if key not in METRICS:
        raise ValueError(f"Metric {key!r} has no declared type; add it to the table of metrics.")
    return METRICS[key]


def kind(key: str) -> Kind:
    """The kind of a metric.

    Raises:
        ValueError: the table has no such key.
    """
    return metric(key).kind


def check_texts(key: str) -> None:
    """Check that texts under this key may be written by every run.

    Raises:
        ValueError: the table lacks the key, or private data are in such texts.
    """
    if kind(key) is Kind.SIMULATION_ONLY:
        raise ValueError(f"Texts {key!r} see private data: no tracker writes them.")


def from_sums(sums: Mapping[str, float]) -> dict[str, float]:
    """The metrics of a round from its clients' sums: those with ``per_unit`` as means over units.

    Args:
        sums: over all units of the round, by metric; ``cohort_size`` is the number of units.

    Raises:
        ValueError: the table lacks a key.
    """
    units = max(1, sums.get("cohort_size", 0))
    return {key: value / units if metric(key).per_unit else value for key, value in sums.items()}


def typed(
    values: Mapping[str, Value], simulation_only: Mapping[str, Value], *, keep: bool
) -> dict[str, Value]:
    """What a tracker may write, after a check that every metric was passed as its kind.

    Args:
        values: public and released metrics.
        simulation_only: metrics of that kind; checked even if they are not written, so that a
            wrong kind fails in every run.
        keep: whether to write ``simulation_only``, under that prefix.

    Returns:
        The metrics by key; infinity and NaN, which JSON does not have, are None.

    Raises:
        ValueError: a key is not in the table, or is passed as another kind than its own.
    """
    for key in values:
        if kind(key) is Kind.SIMULATION_ONLY:
            raise ValueError(f"Metric {key!r} sees private data: pass it as simulation_only.")
    for key in simulation_only:
        if kind(key) is not Kind.SIMULATION_ONLY:
            raise ValueError(f"Metric {key!r} is {kind(key).value}, not simulation_only.")
    private = {f"simulation_only/{key}": value for key, value in simulation_only.items() if keep}
    return {key: _finite(value) for key, value in {**values, **private}.items()}


def _finite(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value
