"""Privacy cost of choosing among several runs on the same users.

If results of all runs may become known, the runs compose. If the number of runs is drawn at random
and only the best run is released, repeat-and-select is cheaper (Papernot and Steinke,
"Hyperparameter Tuning with Renyi Differential Privacy", arXiv 2110.03620).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from userdp.server.accounting import accountants, certify, group_lemma
from userdp.server.accounting.certify import Epsilon
from userdp.server.accounting.events import RoundEvent
from userdp.server.accounting.rdp import ORDERS

# Distribution of the number of runs -> shape parameter of the truncated negative binomial.
SHAPES: Mapping[str, float] = {"logarithmic": 0.0, "geometric": 1.0}


def composed(
    event: RoundEvent,
    rounds: int,
    runs: int,
    delta: float,
    *,
    accountant: str = accountants.DEFAULT,
    group_bound: str = "mixture",
) -> Epsilon:
    """Certified epsilon of ``runs`` runs of ``rounds`` such events, all of whose results are known.

    Args:
        event: of each round.
        rounds: of one run.
        runs: with the same event and number of rounds.
        delta: in [1e-11, 1).
        accountant, group_bound: as `certify.epsilon` takes them.

    Raises:
        ValueError: an argument is out of range, or the accountant refuses the event.
    """
    parts = [(event, rounds * runs)]
    return certify.epsilon(parts, delta, accountant=accountant, group_bound=group_bound)


def unavailable(event: RoundEvent, group_bound: str) -> str | None:
    """Why :func:`repeat_and_select` does not analyse the event, or None if it does."""
    if event.group_size > 1 and group_bound == "mixture":
        return (
            "repeat-and-select is proved for Renyi divergences, which the mixture bound of Group "
            "Privacy does not have; take privacy.group_bound=lemma."
        )
    if event.cohort_cap is not None:
        return (
            "repeat-and-select is proved for Renyi divergences, which are not computed for capped "
            "cohorts."
        )
    if event.failure_probability:
        return "repeat-and-select is proved for guarantees that hold with certainty."
    return None


def repeat_and_select(
    event: RoundEvent, rounds: int, mean_runs: float, delta: float, *, shape: float
) -> float:
    """Upper epsilon of a random number of runs of which only the best one is released.

    Valid only if the number of runs is drawn before the first, from the truncated negative binomial
    distribution of this shape and mean, and the best is chosen by a score that is public or part of
    what the run releases. With several slots a user, by the group privacy lemma over the epsilon of
    one slot.

    Args:
        event: of each round of a run.
        rounds: of a run.
        mean_runs: expected number of runs, at least 1.
        delta: in (0, 1).
        shape: 0 for the logarithmic distribution, 1 for the geometric.

    Raises:
        ValueError: ``mean_runs`` is below 1.
    """
    if not 1 <= mean_runs < math.inf:
        raise ValueError(f"Expected a finite mean_runs >= 1, got {mean_runs!r}.")
    from dp_accounting import dp_event, rdp  # slow to import

    run = dp_event.SelfComposedDpEvent(event.single_slot().dp_event(), rounds)
    accountant = rdp.RdpAccountant(ORDERS)
    accountant.compose(dp_event.RepeatAndSelectDpEvent(run, mean_runs, shape))

    def slot_epsilon(slot_delta: float) -> float:
        return float(accountant.get_epsilon(slot_delta))

    return group_lemma.upper(slot_epsilon, event.group_size, delta)
