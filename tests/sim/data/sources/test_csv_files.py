"""Csv files: a broken row costs one record."""

from __future__ import annotations

import pytest

from helpers.corpora import by_user, load, texts


def test_a_broken_csv_row_costs_one_record_and_lines_count_through_quoted_breaks(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('who,said\nada,"two\nlines"\nbob,x,too many\nbob,"a"b\ncy,fine\n')
    corpus = load(path, tmp_path, format="csv")
    assert corpus.dropped == {"broken line": 2}
    assert texts(corpus.train) == by_user([("ada", "two\nlines"), ("cy", "fine")])
    with pytest.raises(ValueError, match="line 4: broken line"):
        load(path, tmp_path, format="csv", strict=True)
