"""Facts about columns against a slow count, and guesses for the shapes that data usually have."""

from __future__ import annotations

import datetime

import pytest

from userdp.sim.data import column_facts, column_guess
from userdp.sim.data.sources.base import Row

TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
DEFAULT = {"user": "user_id", "text": "text", "prompt": None, "chat": None}


def rows(*columns: dict[str, object]) -> list[Row]:
    return [Row(f"row {number}", values) for number, values in enumerate(columns)]


def guessed(*columns: dict[str, object], **configured: str | None) -> column_guess.Guess:
    some = rows(*columns)
    return column_guess.guess(column_facts.facts(some), len(some), {**DEFAULT, **configured})


def test_facts_are_those_of_a_count_by_hand():
    some = rows(
        {"a": "x", "b": 1, "c": None, "d": TALK, "e": True},
        {"a": "yyy", "b": "1", "c": None, "d": [], "e": 1.5},
        {"a": "", "b": 1, "d": [{"from": "human"}], "e": datetime.datetime(2001, 1, 1)},
        {"a": "x", "b": 2, "d": {"k": 1}, "f": b"?"},
    )
    facts = column_facts.facts([*some, Row("broken", None)])
    by_name = {column.name: column for column in facts}
    assert list(by_name) == ["a", "b", "c", "d", "e", "f"]
    assert [by_name[name].filled for name in "abcdef"] == [0.75, 1.0, 0.0, 0.75, 0.75, 0.25]
    assert (by_name["a"].types, by_name["a"].distinct) == (("text",), 2)
    assert by_name["a"].length == pytest.approx((1 + 3 + 1) / 3)
    assert (by_name["b"].types, by_name["b"].distinct) == (("integer", "text"), 3)
    assert by_name["c"].types == ()
    assert by_name["d"].types == ("list of messages", "list", "object")
    assert by_name["e"].types == ("true or false", "number", "date")
    assert by_name["f"].types == ("other",)


@pytest.mark.parametrize(
    ("row", "user", "content"),
    [
        ({"user_id": "a", "text": "t"}, "user_id", {"text": "text"}),
        ({"OwnerUserId": 8, "Title": "t", "Body": "b"}, "OwnerUserId", {"text": "Body"}),
        ({"From": "a@x", "subject": "s", "body": "b"}, "From", {"text": "body"}),
        ({"hashed_ip": "f", "conversation": TALK}, "hashed_ip", {"chat": "conversation"}),
        ({"author": "a", "user_id": "b", "text": "t"}, "user_id", {"text": "text"}),
        ({"user": "a", "inputs": "i", "targets": "t"}, "user",
         {"prompt": "inputs", "text": "targets"}),
        ({"user": "a", "prompt": TALK[:1], "completion": TALK[1:]}, "user",
         {"prompt": "prompt", "chat": "completion"}),
        ({"id": "a", "note": "long " * 20}, None, {"text": "note"}),
        ({"user_id": "a", "score": 1.5}, "user_id", {}),
        ({"speaker": 1.5, "text": "t"}, None, {"text": "text"}),
    ],
)  # fmt: skip
def test_columns_are_found_by_name_and_by_what_they_hold(row, user, content):
    found = guessed(row, row)
    named = {"text": found.text, "prompt": found.prompt, "chat": found.chat}
    assert {name: column for name, column in named.items() if column} == content
    assert found.user == user


def test_without_a_name_the_column_whose_short_values_come_back_is_taken():
    some = [{"k": f"k{n}", "who is it": f"p{n % 3}", "two": "ab"[n % 2], "t": "long " * 40}
            for n in range(12)]  # fmt: skip
    found = guessed(*some)
    assert (found.user, found.text) == ("who is it", "t")
    alone = guessed(*[{"k": f"k{n}", "t": f"{n} long " * 40} for n in range(12)])
    assert alone.user is None
    assert "a user of its own" in alone.user_reason


def test_what_is_configured_goes_before_a_guess():
    some = [{"user_id": "a", "author": "b", "text": "t", "body": "u"}] * 2
    found = guessed(*some, user="author", text="body")
    assert (found.user, found.text) == ("author", "body")
    assert found.user_reason == "named by data.user"
    odd = guessed({"author": 1.5, "text": "t"}, user="author")
    assert (odd.user, odd.text) == ("author", "text")
    assert "an id is a text or an integer" in odd.user_reason
    nobody = guessed(*some, user=None)
    assert nobody.user is None
    assert "data.user=null" in nobody.user_reason
