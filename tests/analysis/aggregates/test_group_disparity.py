"""The share of the gain that each group keeps, by hand, and which runs are compared."""

from __future__ import annotations

import pytest

from helpers.run_folders import write
from userdp.analysis.aggregates import group_disparity
from userdp.sim.run_folder import reader


def groups(few: float, many: float, *, before: tuple[float, float] = (5.0, 4.0)):
    """A groups.csv with one grouping; the group "many" has nine times the tokens."""
    by_round = {0: before, 30: (few, many)}
    rows = [
        {"round": number, "grouping": "records", "group": name, "users": users, "tokens": tokens,
         "loss": loss}
        for number, losses in by_round.items()
        for name, users, tokens, loss in zip(
            ("few", "many"), (7, 9), (10, 90), losses, strict=True
        )
    ]  # fmt: skip
    return {"groups.csv": rows}


def table(*folders):
    return group_disparity.table(reader.complete(folders))


def gain_kept(*folders):
    return {(row["run"], row["group"]): row["gain_kept"] for row in table(*folders)}


def test_gain_kept_is_the_private_gain_over_the_non_private_one_of_the_same_group(tmp_path):
    private = write(tmp_path / "private", epsilon=3, tables=groups(4.8, 3.25))
    free = write(tmp_path / "free", strategy="non_private", tables=groups(4.0, 3.0))
    rows = table(private, free)
    assert gain_kept(private, free) == {
        ("private", "few"): pytest.approx(0.2),  # (5 - 4.8) / (5 - 4)
        ("private", "many"): pytest.approx(0.75),  # (4 - 3.25) / (4 - 3)
        ("free", "few"): 1,
        ("free", "many"): 1,
    }
    assert rows[0] == {
        "run": "private", "strategy": "user_wise", "epsilon": 3, "k": 4,
        "selection": "random", "seed": 1, "grouping": "records", "group": "few", "users": 7,
        "loss_before": 5.0, "loss_after": 4.8, "gain": pytest.approx(0.2),
        "gain_kept": pytest.approx(0.2),
    }  # fmt: skip
    assert rows[2]["epsilon"] is None


@pytest.mark.parametrize(
    ("changes", "compared"),
    [
        ({"seed": 2}, False),
        ({"data__path": "other.jsonl"}, False),
        ({"data__seed": 1}, False),
        ({"model__path": "other"}, False),
        ({"model__revision": "other"}, False),
        ({"model__seq_len": 32}, False),
        ({"selection": "longest"}, False),
        ({"k": 5}, False),
        ({"model__lora__r": 8}, True),
        ({"data__canaries": 10}, True),
        ({"rounds": 60, "cohort": 50}, True),
    ],
)
def test_a_run_is_compared_to_one_of_the_same_data_model_k_selection_and_seed(
    tmp_path, changes, compared
):
    private = write(tmp_path / "private", tables=groups(4.5, 3.5))
    free = write(tmp_path / "free", strategy="non_private", tables=groups(4.0, 3.0), **changes)
    assert (gain_kept(private, free)["private", "few"] is not None) == compared


def test_of_several_non_private_runs_the_best_over_all_tokens_is_the_reference(tmp_path):
    """The group "many" holds nine tenths of the tokens, so it decides."""
    options = {"strategy": "non_private"}
    first = write(tmp_path / "first", **options, tables=groups(3.0, 3.5))
    best = write(tmp_path / "best", **options, tables=groups(4.0, 3.0))
    last = write(tmp_path / "last", **options, tables=groups(3.5, 3.6))
    private = write(tmp_path / "private", tables=groups(4.5, 3.5))
    for order in ([first, best, last, private], [private, last, best, first]):
        shares = gain_kept(*order)
        assert (shares["private", "few"], shares["private", "many"]) == (0.5, 0.5)


def test_a_group_that_gained_nothing_without_privacy_has_no_share(tmp_path):
    private = write(tmp_path / "private", tables=groups(4.9, 3.5))
    free = write(tmp_path / "free", strategy="non_private", tables=groups(5.1, 3.0))
    shares = gain_kept(private, free)
    assert shares["private", "few"] is None
    assert shares["private", "many"] == 0.5


def test_runs_without_groups_or_without_an_end_are_skipped(tmp_path, capsys):
    bare = write(tmp_path / "bare")
    cut = write(tmp_path / "cut", tables=groups(4.5, 3.5), complete=False)
    assert table(bare, cut, tmp_path / "nowhere") == []
    assert group_disparity.main([str(bare)]) == 2
    assert "track.simulation_only=true" in capsys.readouterr().err


def test_the_command_prints_the_table(tmp_path, capsys):
    path = write(tmp_path / "private", tables=groups(4.5, 3.5))
    assert group_disparity.main([str(path)]) == 0
    assert capsys.readouterr().out.startswith("run,strategy,selection,k,seed,epsilon,")
