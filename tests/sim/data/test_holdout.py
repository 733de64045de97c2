"""Decisions of who is held out: the published ones, with the asked share."""

from __future__ import annotations

from userdp.sim.data import holdout


def test_the_split_coins_are_the_published_ones():
    held = [n for n in range(40) if holdout.user_held_out(0, f"u{n}", 0.1)]
    assert held == [26, 34]


def test_the_share_of_held_out_users_is_the_fraction():
    held_out = sum(holdout.user_held_out(1, f"u{n}", 0.3) for n in range(4000)) / 4000
    deviation = (0.3 * 0.7 / 4000) ** 0.5
    assert abs(held_out - 0.3) < 4 * deviation


def test_a_first_record_is_never_held_out_and_others_at_the_fraction():
    assert not any(holdout.record_held_out(0, f"u{n}", 0, 0.99) for n in range(200))
    held_out = sum(holdout.record_held_out(0, "u", n, 0.3) for n in range(1, 4001)) / 4000
    deviation = (0.3 * 0.7 / 4000) ** 0.5
    assert abs(held_out - 0.3) < 4 * deviation
