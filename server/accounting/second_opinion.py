"""A second opinion on a claim: the pessimistic PLD of dp-accounting, which is no code of ours.

It is printed beside a claim and is no part of it.
"""

from __future__ import annotations

from userdp.server.accounting.events import Composition, merged

_STEP = 1e-3  # width of the grid
_WIDE_STEP = 1e-2  # where mixtures or many rounds take long: seconds and not minutes
_MANY = 2000  # events
_SHARE = 1e-4  # of epsilon: the width at least, so that the grid fits in memory


def epsilon(
    composition: Composition, delta: float, *, expected: float | None = None
) -> float | None:
    """Epsilon of all events, rounded up on dp-accounting's grid; None where it has no figure.

    Args:
        composition: events, and how often each happened.
        delta: in (0, 1).
        expected: about the result; the grid is wider where it is large.

    Adjacency as in `certify.epsilon`: one user added or removed, or emptied where cohorts are
    capped.
    """
    from dp_accounting import privacy_accountant  # slow to import
    from dp_accounting.pld import PLDAccountant

    parts = merged(composition)
    mixed = any(event.group_size > 1 for event, _ in parts)
    many = sum(count for _, count in parts) > _MANY
    capped = any(event.cohort_cap is not None for event, _ in parts)
    relation = privacy_accountant.NeighboringRelation
    accountant = PLDAccountant(
        relation.REPLACE_SPECIAL if capped else relation.ADD_OR_REMOVE_ONE,
        value_discretization_interval=max(
            _WIDE_STEP if mixed or many else _STEP, _SHARE * (expected or 0.0)
        ),
    )
    try:
        for event, count in parts:
            accountant.compose(event.dp_event(), count)
        return float(accountant.get_epsilon(delta))
    except (ArithmeticError, MemoryError, ValueError, privacy_accountant.UnsupportedEventError):
        return None
