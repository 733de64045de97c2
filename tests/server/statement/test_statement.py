"""A statement holds all that ledger and claim say, and no contradiction."""

from __future__ import annotations

import json

import pytest

from helpers.statements import EVENT, HEADER, NON_PRIVATE, NOTHING, built, claim
from userdp.server.statement import model_card, prose, schema, statement


def test_a_run_resumed_with_other_code_names_both():
    assert built(codes=["c0de", "d0de"])["code_hash"] == "c0de, then d0de"


def test_a_statement_survives_json_and_holds_every_field():
    said = built()
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert list(said) == list(statement.schema.FIELDS)
    assert said["private"]
    assert said["reasons"] == []


def test_rounds_are_those_of_the_ledger():
    assert built(rounds=31)["rounds"] == 31
    with pytest.raises(ValueError, match="other events"):
        statement.build(
            HEADER,
            [(EVENT, 30), ({**EVENT, "sampling_rate": 0.02}, 1)],
            claim(),
            ledger_hash="1ed6e4",
            codes=["c0de"],
        )


@pytest.mark.parametrize("name", statement.HEADER_FIELDS)
def test_a_header_without_a_field_is_refused_by_name(name):
    header = {key: value for key, value in HEADER.items() if key != name}
    with pytest.raises(ValueError, match=name):
        statement.build(header, [(EVENT, 1)], claim(), ledger_hash="1ed6e4", codes=["c0de"])


def test_figures_are_the_accountants_rounded_outwards():
    said = built()
    assert (said["epsilon_lower"], said["epsilon"]) == (2.11002, 2.12454)
    assert said["epsilon_at_deltas"] == {"1e-06": 2.9, "1e-05": 2.12454}


def test_conditions_of_the_run_become_assumptions():
    plain = built()["assumptions"]
    counted = built({**HEADER, "users_counted": True})["assumptions"]
    dropping = built({**HEADER, "drop_failed_nodes": True})["assumptions"]
    assert any("2484, was counted" in text for text in set(counted) - set(plain))
    assert any("drop_failed_nodes" in text for text in set(dropping) - set(plain))


@pytest.mark.parametrize(
    ("header", "figures", "reason"),
    [
        (NON_PRIVATE, claim(**NOTHING), "non_private"),
        ({**HEADER, "seeds_policy": "reproducible"}, claim(), "reproducible"),
        ({**HEADER, "simulated_cohort": 5000.0}, claim(), "5000.0, but 24.84"),
    ],
)
def test_what_is_not_private_says_so_in_its_first_line(header, figures, reason):
    said = built(header, figures=figures)
    assert not said["private"]
    first = prose.text(said).splitlines()[0]
    assert first.startswith("NOT PRIVATE: ")
    assert reason in first
    assert "-differentially private" not in prose.text(said)
    card = model_card.text(said, base_model="gpt2")
    heading = next(line for line in card.splitlines() if line.startswith("#"))
    assert heading.startswith("# NOT PRIVATE")
    assert "differential-privacy" not in card.split("---")[1]
    with pytest.raises(ValueError, match="private"):
        schema.validate({**said, "private": True})


def test_a_real_cohort_is_no_simulated_one():
    assert built({**HEADER, "simulated_cohort": 24.84})["private"]


def test_code_hash_follows_every_python_file_and_nothing_else(tmp_path, monkeypatch):
    package = tmp_path / "somepackage"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner" / "a.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)

    def now():
        return statement.code_hash(["somepackage"])

    first = now()
    (package / "notes.txt").write_text("not code")
    assert now() == first
    (package / "inner" / "a.py").write_text("x = 2\n")
    second = now()
    (package / "inner" / "a.py").rename(package / "inner" / "b.py")
    third = now()
    assert len({first, second, third}) == 3
    (tmp_path / "somemodule.py").write_text("y = 1\n")
    fourth = statement.code_hash(["somepackage"], ["somemodule"])
    (tmp_path / "somemodule.py").write_text("y = 2\n")
    assert len({third, fourth, statement.code_hash(["somepackage"], ["somemodule"])}) == 3
    with pytest.raises(ValueError, match="nowhere"):
        statement.code_hash(["nowhere"])


# --- noise ---------------------------------------------------------------------------------------

GAP = "(Mironov, CCS 2012) is not closed"


def test_what_an_update_owes_to_the_users_beside_it_is_told_where_the_precision_is_known():
    def told(**header):
        listed = built({**HEADER, **header})["assumptions"]
        return [text for text in listed if "computed beside" in text]

    assert told() == []  # a ledger of a version without the check
    [exact], [rounded] = told(base_dtype="float32"), told(base_dtype="bfloat16")
    assert "by the rounding of float32 alone" in exact
    assert "does not depend on the users computed beside it" in rounded
    assert "does not depend" not in exact


def noise_assumptions(header):
    return [text for text in built(header)["assumptions"] if text.startswith("noise is ")]


def test_a_statement_says_which_noise_was_drawn_and_names_the_gap_of_float_noise_alone():
    [plain] = noise_assumptions(HEADER)
    [named] = noise_assumptions({**HEADER, "noise": "float"})
    [discrete] = noise_assumptions({**HEADER, "noise": "discrete"})
    assert plain == named  # ledgers of versions without discrete noise do not name it
    assert GAP in plain
    assert discrete.startswith("noise is discrete: ")
    assert "Mironov" not in discrete
    assert "Mironov" not in prose.text(built({**HEADER, "noise": "discrete"}))
