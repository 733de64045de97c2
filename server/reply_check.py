"""Checks a node's reply against what the node was asked, before it is added to the sum.

A node is part of the trusted side, and the guarantee rests on its clip. The clip is therefore
checked a second time, as far as a sum shows it: a node that was asked for n units of clip norm C
cannot answer with a sum longer than n C, whoever wrote it and whatever went wrong on the way. Every
limit below follows from the request alone, never from the records, and a node that follows its
contract stays within all of them whatever its users hold (`userdp.clients.training.clipping`). So
no user can bring a round to a refusal.

| part of the reply    | limit                                                                   |
|----------------------|-------------------------------------------------------------------------|
| tensors              | names, shapes and dtype (float64) of the adapter; finite                |
| sum                  | norm at most n C                                                        |
| rows, where asked    | at most n, each of norm at most C; they add up to the sum               |
| clip bits, if asked  | finite, within n/2 of zero                                              |
| figures              | simulation_only metrics: finite, not negative; counts of units at most n|

With an infinite C, in a run that is not private, the norms are only required to be finite. Norms
are computed in float64, so each limit has a margin of their rounding (`_margin`), about 1e-10 for a
million parameters.

The reasons of a refusal name limits and numbers of units, and quote nothing of the reply.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Message

from userdp.sim.protocol import messages
from userdp.sim.protocol.cohort_sum import CohortSum
from userdp.sim.protocol.contract import Contract
from userdp.sim.protocol.layout import Layout
from userdp.sim.tracking import metric_kinds

# Figures that count units: no more than the node was asked for.
UNIT_COUNTS = ("cohort_size", "failed_units", "clipped_fraction")
_REQUIRED = ("cohort_size", "failed_units")


class ReplyRefusedError(ValueError):
    """A reply is not what the node was asked for; the message says why and quotes nothing of it."""


@dataclass(frozen=True)
class Asked:
    """What one node was asked for in a round."""

    message: Message
    contract: Contract
    units: int  # n, that the node was assigned, whether a user occupies them or not


def checked(reply: Message, asked: Asked, layout: Layout) -> CohortSum:
    """The sum in a node's reply, once it has passed every check.

    Args:
        reply: without an error.
        asked: what this node was asked for in this round.
        layout: of the adapter.

    Raises:
        ReplyRefusedError: the reply is not one to ``asked``.
    """
    try:
        cohort = messages.read_reply(reply, layout)
    except Exception as error:  # whatever a record that is not ours brings NumPy or Flower to
        raise ReplyRefusedError(
            f"its reply does not have the form of the contract ({type(error).__name__})"
        ) from None
    check(cohort, asked.contract, asked.units)
    return cohort


def check(cohort: CohortSum, contract: Contract, units: int) -> None:
    """Hold a sum, of one node or of all together, to the limits that follow from its units.

    Args:
        cohort: the sum.
        contract: of the round.
        units: n, that were asked for.

    Raises:
        ReplyRefusedError: the sum is beyond a limit.
    """
    _check_sum(cohort.total, contract, units)
    _check_rows(cohort, contract, units)
    _check_bits(cohort.unclipped_bits, contract, units)
    _check_figures(cohort.figures, units)


def _check_sum(total: np.ndarray, contract: Contract, units: int) -> None:
    with np.errstate(over="ignore"):  # squares of huge numbers: not finite either
        norm = float(np.linalg.norm(total))
    if not math.isfinite(norm):
        raise ReplyRefusedError("its sum is not finite")
    limit = units * contract.clip_norm
    if norm > limit * (1.0 + _margin(units, len(total))):
        raise ReplyRefusedError(
            f"its sum is longer than {units} units of clip norm {contract.clip_norm:g} can be"
        )


def _check_rows(cohort: CohortSum, contract: Contract, units: int) -> None:
    rows = cohort.rows
    if (rows is not None) != contract.keep_rows:
        raise ReplyRefusedError(f"the contract has keep_rows={contract.keep_rows}")
    if rows is None:
        return
    if len(rows) > units:
        raise ReplyRefusedError(f"it has more rows than the {units} units it was asked for")
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(rows, axis=1)
    margin = _margin(units, len(cohort.total))
    if not np.isfinite(norms).all():
        raise ReplyRefusedError("a row is not finite")
    if (norms > contract.clip_norm * (1.0 + margin)).any():
        raise ReplyRefusedError(f"a row is longer than the clip norm {contract.clip_norm:g}")
    # Both sums add the same float64 rows, in another order: each addition rounds once.
    if np.linalg.norm(rows.sum(axis=0) - cohort.total) > margin * norms.sum():
        raise ReplyRefusedError("its rows do not add up to its sum")


def _check_bits(bits: float | None, contract: Contract, units: int) -> None:
    if (bits is not None) != contract.count_unclipped:
        raise ReplyRefusedError(f"the contract has count_unclipped={contract.count_unclipped}")
    if bits is None:
        return
    if not _is_finite(bits) or abs(bits) > units / 2:
        raise ReplyRefusedError(f"its clip bits are not those of {units} units")


def _check_figures(figures: Mapping[str, float], units: int) -> None:
    for name in _REQUIRED:
        if name not in figures:
            raise ReplyRefusedError(f"it lacks the figure {name}")
    for name, value in figures.items():
        if not _is_simulated(name):  # its name is the node's text, and is not repeated
            raise ReplyRefusedError("it has a figure that no table declares for simulations")
        most = units if name in UNIT_COUNTS else math.inf
        if not (_is_finite(value) and 0 <= value <= most):
            raise ReplyRefusedError(f"its figure {name} is out of range")


def _is_simulated(name: str) -> bool:
    declared = metric_kinds.METRICS.get(name)
    return declared is not None and declared.kind is metric_kinds.Kind.SIMULATION_ONLY


def _is_finite(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]


def _margin(units: int, size: int) -> float:
    """Relative rounding error of a float64 sum of ``units`` rows and of its norm over ``size``.

    A sum of n terms errs by at most n 2^-53 of the sum of their sizes, and a norm of D terms by
    D 2^-53 (Higham 2002, section 4.2); twice that, and a few roundings of the scaling.
    """
    return (units + size + 8) * 2.0**-52
