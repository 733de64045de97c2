"""Turns of the sides of a benchmark, with sides of known times."""

from __future__ import annotations

from userdp.analysis.benchmark import processes


class Side:
    """Takes the given seconds, and notes in which order the sides were asked."""

    def __init__(self, name: str, seconds: list[float], order: list[str]) -> None:
        self.name, self.seconds, self.order = name, iter(seconds), order

    def ask(self, word: str) -> dict[str, object]:
        self.order.append(f"{self.name} {word}")
        return {"seconds": next(self.seconds), "word": word}


def test_sides_take_turns_and_the_first_turn_does_not_count():
    order: list[str] = []
    sides = {
        "round": Side("round", [99.0, 2.0, 6.0, 4.0], order),
        "plain": Side("plain", [99.0, 4.0, 3.0, 8.0], order),
    }
    answers = processes.turns(sides, 3)
    assert order == ["round go", "plain go"] * 4
    assert [turn["seconds"] for turn in answers["round"]] == [2.0, 6.0, 4.0]


def test_several_short_rounds_make_one_turn_with_their_mean_time():
    order: list[str] = []
    turn = processes.Repeated(Side("round", [5.0, 1.0, 3.0], order), 3).ask("go")
    assert turn == {"seconds": 3.0, "word": "go"}
    assert len(order) == 3


def test_the_ratio_of_two_sides_is_taken_turn_by_turn():
    first, second = ([{"seconds": s} for s in times] for times in ((2.0, 6.0, 4.0), (4, 3, 8)))
    spread = processes.ratio(first, second)
    assert (spread.median, spread.least, spread.most) == (0.5, 0.5, 2.0)
