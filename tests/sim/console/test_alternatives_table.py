"""The table of alternatives and the price of tuning, as `userdp plan` prints them."""

from __future__ import annotations

from userdp.sim.console import alternatives_table

POSSIBLE = {
    "strategy": "user_wise",
    "records_per_user": 5,
    "cohort": 40.0,
    "sampling_rate": 0.04,
    "noise_multiplier": 1.2345678,
    "epsilon": {"lower": 1.9, "upper": 1.99991},
    "noise_std_on_mean_per_clip_norm": 0.030864,
    "real_gradients": 150.0,
    "real_gradients_without_resampling": 150.0,
    "reason": None,
    "clipped_unit": "user",
}
SLOTS = {
    **POSSIBLE,
    "strategy": "group_privacy",
    "clipped_unit": "record_slot",
    "real_gradients": 200.0,
}
IMPOSSIBLE = {**POSSIBLE, "records_per_user": 500, "cohort": 0.4, "reason": "cohort=0.4: no."}


def test_rows_are_ranked_in_their_order_and_an_impossible_one_has_its_reason_below():
    head, first, second, third, reason = alternatives_table.table(
        [POSSIBLE, SLOTS, IMPOSSIBLE]
    ).splitlines()
    assert head.split()[:3] == ["strategy", "k", "cohort"]
    assert first.split() == ["1", "user_wise", "5", "40", "0.04", "1.23457", "2", "0.03086", "150"]
    assert second.split()[:2] == ["2", "group_privacy"]
    assert second.endswith("200 (unfilled 150)")
    assert third.split() == ["-", "user_wise", "500", "0.4", *["-"] * 5]
    assert reason == "not possible: user_wise, k = 500: cohort=0.4: no."
    assert len({len(line) for line in (head, first, second, third)}) == 1
    assert len(head) <= alternatives_table.WIDTH


def test_unknown_gradients_are_called_unknown():
    row = {**POSSIBLE, "real_gradients": None, "real_gradients_without_resampling": None}
    assert alternatives_table.table([row]).endswith("unknown")


def test_the_price_of_tuning_names_the_condition_of_the_cheaper_one():
    tuning = {
        "runs": 10,
        "composed": {"lower": 6.0, "upper": 6.90861},
        "repeat_and_select": {"geometric": 4.5, "logarithmic": None},
        "reason": None,
    }
    lines = alternatives_table.tuning_text(tuning).splitlines()
    assert lines[0].startswith("tuning: 10 runs on the same users")
    assert lines[0].endswith("epsilon <= 6.909")
    assert lines[1].endswith("geometric number of runs of mean 10: epsilon <= 4.5")
    assert lines[2].endswith("epsilon <= infinite")
    assert "drawn at random first" in lines[3]


def test_an_unavailable_figure_has_its_reason():
    tuning = {"runs": 3, "composed": {"upper": 2.0}, "repeat_and_select": None, "reason": "capped."}
    assert alternatives_table.tuning_text(tuning).endswith("not available: capped.")


def test_a_plan_without_further_answers_prints_nothing(capsys):
    alternatives_table.print_advice({"epsilon": {"upper": 1.0}})
    assert capsys.readouterr().out == ""


def test_advice_is_printed_with_the_note_on_the_unknown_signal(capsys):
    alternatives_table.print_advice({"alternatives": [POSSIBLE]})
    out = capsys.readouterr().out
    assert "The signal is not known without data" in out
    assert max(map(len, out.splitlines())) <= alternatives_table.WIDTH
