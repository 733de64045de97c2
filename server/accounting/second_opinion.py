"""A second opinion on a claim: the pessimistic PLD of dp-accounting, which is no code of ours.

It is printed beside a claim and is no part of it.
"""

from __future__ import annotations

from userdp.server.accounting.events import Composition, merged

_STEPS = (1e-3, 1e-2)  # widths of the grid: finer where a run has few rounds
_MANY = 2000  # events from which on the wider one is taken, for the time of the convolution


def epsilon(composition: Composition, delta: float) -> float | None:
    """Epsilon of all events, rounded up on dp-accounting's grid; None where it has no such event.

    Adjacency as in `certify.epsilon`: one user added or removed, or emptied where cohorts are
    capped.
    """
    from dp_accounting import privacy_accountant  # slow to import
    from dp_accounting.pld import PLDAccountant

    parts = merged(composition)
    try:
        events = [(event.dp_event(), count) for event, count in parts]
    except ValueError:
        return None
    capped = any(event.cohort_cap is not None for event, _ in parts)
    relation = privacy_accountant.NeighboringRelation
    step = _STEPS[sum(count for _, count in parts) > _MANY]
    accountant = PLDAccountant(
        relation.REPLACE_SPECIAL if capped else relation.ADD_OR_REMOVE_ONE,
        value_discretization_interval=step,
    )
    if not all(accountant.supports(event) for event, _ in events):
        return None
    for event, count in events:
        accountant.compose(event, count)
    return float(accountant.get_epsilon(delta))
