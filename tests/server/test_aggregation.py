"""Adding up replies: the order of nodes does not matter, and unasked content is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from userdp.server.aggregation import Aggregation
from userdp.sim.protocol.cohort_sum import CohortSum

SIZE = 4


def reply(node, *, bits=None, rows=False):
    """The reply of a node that hosts ``node`` units; whole numbers, so that sums are exact."""
    units = np.arange(node * SIZE, dtype=np.float64).reshape(node, SIZE) + node
    return CohortSum(
        units.sum(0),
        {"cohort_size": float(node), "mean_loss": 2.0 * node},
        bits,
        units if rows else None,
    )


def added(nodes, **content):
    """The sum over the replies of these nodes, in this order."""
    asked = {"count_unclipped": content.get("bits") is not None, "keep_rows": "rows" in content}
    aggregation = Aggregation.empty(SIZE, **asked)
    for node in nodes:
        aggregation.add(node, reply(node, **content))
    return aggregation.cohort()


@pytest.mark.parametrize("nodes", list(itertools.permutations([1, 2, 5])))
def test_the_order_of_nodes_changes_nothing(nodes):
    cohort, expected = added(nodes, bits=0.5, rows=True), added([1, 2, 5], bits=0.5, rows=True)
    np.testing.assert_array_equal(cohort.total, expected.total)
    np.testing.assert_array_equal(cohort.rows, expected.rows)
    assert cohort.unclipped_bits == expected.unclipped_bits == 1.5
    assert cohort.figures == {"cohort_size": 8, "mean_loss": 16}


def test_the_sum_is_that_of_all_replies_and_of_their_rows():
    cohort = added([3, 4, 6], rows=True)
    np.testing.assert_array_equal(cohort.total, sum(reply(node).total for node in (3, 4, 6)))
    assert cohort.rows.shape == (13, SIZE)
    np.testing.assert_array_equal(cohort.rows.sum(0), cohort.total)


def test_without_a_reply_the_sum_is_zero_and_has_no_rows():
    cohort = added([], bits=0.5, rows=True)
    assert cohort.total.tolist() == [0.0] * SIZE
    assert cohort.rows.shape == (0, SIZE)
    assert cohort.unclipped_bits == 0


def test_bits_and_rows_are_absent_where_they_are_not_asked_for():
    cohort = added([1, 2])
    assert cohort.unclipped_bits is None
    assert cohort.rows is None


@pytest.mark.parametrize(
    ("content", "message"), [({"bits": 0.5}, "clip bits"), ({"rows": True}, "rows")]
)
@pytest.mark.parametrize("asked", [True, False])
def test_a_reply_with_other_content_than_asked_is_refused_and_adds_nothing(content, message, asked):
    wanted = content if asked else {}
    aggregation = Aggregation.empty(
        SIZE, count_unclipped="bits" in wanted, keep_rows="rows" in wanted
    )
    with pytest.raises(ValueError, match=message):
        aggregation.add(1, reply(1, **({} if asked else content)))
    assert aggregation.total.tolist() == [0.0] * SIZE


def test_replies_are_not_changed():
    first = reply(2)
    aggregation = Aggregation.empty(SIZE, count_unclipped=False, keep_rows=False)
    before = first.total.copy()
    aggregation.add(1, first)
    aggregation.add(2, reply(3))
    np.testing.assert_array_equal(first.total, before)
