"""Noise rows of correlated noise: their joint law, their file, and what a resume refuses."""

from __future__ import annotations

import json
import stat

import numpy as np
import pytest
from scipy import stats

from userdp.server.mechanisms.matrix_factorization.factor import (
    OBJECTIVES,
    identity,
    optimal,
    square_root,
)
from userdp.server.mechanisms.matrix_factorization.noise_state import NoiseWindow
from userdp.sim.common import rng
from userdp.sim.common.errors import ConfigurationError

FACTOR = optimal(7, 3)
DRAWS = 40_000


def stream(number, seed=0):
    return rng.Secrets(replay_seed=seed).stream("noise", number)


def rows(factor, size, numbers, window=None):
    """(rounds, size) the rows of a run that releases these rounds."""
    window = window or NoiseWindow()
    return np.array([window.row(factor, stream(n), n, size) for n in numbers])


def whitened(sample, factor, scale=1.0):
    """Chi-square of the sample covariance against ``scale M^-1 M^-T``; about 1 per degree."""
    fresh = np.sqrt(1 / scale) * factor.matrix()[: len(sample), : len(sample)] @ sample
    gram = fresh @ fresh.T / sample.shape[1]
    return gram, sample.shape[1]


def consistent(sample, factor, scale=1.0):
    """Whether every entry of the whitened covariance is within five standard errors of I."""
    gram, draws = whitened(sample, factor, scale)
    error = np.sqrt((1 + np.eye(len(gram))) / draws)
    return bool((np.abs(gram - np.eye(len(gram))) < 5 * error).all())


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("bands", [1, 3, 7])
def test_the_rows_of_a_run_have_the_factors_covariance_and_no_other_scale(bands, objective):
    factor = optimal(7, bands, objective)
    sample = rows(factor, DRAWS, range(1, 8))
    assert consistent(sample, factor)
    assert not consistent(sample, factor, 2 / 3)
    assert not consistent(sample, factor, 3 / 2)
    for number, row in enumerate(sample, start=1):
        assert row.std() == pytest.approx(np.sqrt(factor.variances[number - 1]), rel=0.03)


def test_another_correlation_is_told_apart():
    sample = rows(FACTOR, DRAWS, range(1, 8))
    assert not consistent(sample, square_root(7, 3))
    assert not consistent(sample, identity(7))


def test_a_row_is_gaussian():
    sample = rows(FACTOR, DRAWS, range(1, 8))
    for row, variance in zip(sample, FACTOR.variances, strict=True):
        assert stats.kstest(row, "norm", args=(0, np.sqrt(variance))).pvalue > 1e-4


def test_rounds_that_were_passed_over_leave_the_law_of_the_others_as_it_is():
    """Rounds 3, 4 and 6 are never released: the others have their rows of the covariance."""
    released = [1, 2, 5, 7]
    sample = rows(FACTOR, DRAWS, released)
    spread = np.linalg.inv(FACTOR.matrix())
    expected = (spread @ spread.T)[np.ix_([n - 1 for n in released], [n - 1 for n in released])]
    found = sample @ sample.T / DRAWS
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert (np.abs(found - expected) < 0.035 * scale).all()


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_rows_number_is_used_once(number):
    window = NoiseWindow()
    rows(FACTOR, 4, [1, 3], window)
    with pytest.raises(ValueError, match="drawn before"):
        window.row(FACTOR, stream(number), number, 4)


@pytest.mark.parametrize("stop", range(1, 7))
@pytest.mark.parametrize("bands", [1, 2, 3, 7])
def test_a_stored_window_goes_on_as_if_it_had_not_been_stored(tmp_path, bands, stop):
    factor = optimal(7, bands)
    whole = rows(factor, 5, range(1, 8))
    first = NoiseWindow()
    rows(factor, 5, range(1, stop + 1), first)
    first.save(tmp_path, factor)
    second = NoiseWindow()
    second.load(tmp_path, factor, released=stop, intended=stop)
    second.check_size(5)
    np.testing.assert_array_equal(rows(factor, 5, range(stop + 1, 8), second), whole[stop:])


def saved(folder, upto=4, factor=FACTOR):
    window = NoiseWindow()
    rows(factor, 5, range(1, upto + 1), window)
    window.save(folder, factor)
    return folder / "noise"


def test_the_file_is_the_owners_alone_and_replaces_the_one_before(tmp_path):
    folder = tmp_path / "checkpoint"
    (tmp_path / "checkpoint").mkdir(mode=0o777)
    (folder / "noise.tmp").write_text("left by a crash, readable by all")
    path = saved(folder)
    saved(folder, upto=6)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_bytes().partition(b"\n")[0])["number"] == 6
    assert [item.name for item in folder.iterdir()] == ["noise"]


def test_the_file_holds_no_more_rows_than_later_rounds_need(tmp_path):
    content = saved(tmp_path, upto=6).read_bytes().partition(b"\n")[2]
    assert len(content) == 2 * 5 * 8


def test_deletion_leaves_nothing_and_may_come_twice(tmp_path):
    saved(tmp_path)
    (tmp_path / "noise.tmp").touch()
    for _ in range(2):
        NoiseWindow.delete(tmp_path)
        assert not list(tmp_path.iterdir())
    NoiseWindow.delete(tmp_path / "never there")


def loading(folder, factor=FACTOR, *, released=4, intended=4, size=5):
    window = NoiseWindow()
    window.load(folder, factor, released=released, intended=intended)
    window.check_size(size)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"released": 5, "intended": 6}, "ends at round 4, before the last release"),
        ({"released": 2, "intended": 3}, "another run"),
        ({"factor": optimal(7, 4)}, "another run"),
        ({"size": 6}, "rows of 5 numbers"),
    ],
)
def test_a_window_that_does_not_fit_is_refused(tmp_path, change, message):
    saved(tmp_path)
    loading(tmp_path)
    loading(tmp_path, released=3)
    with pytest.raises(ConfigurationError, match=message) as error:
        loading(tmp_path, **change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[:-3] + b"abc",
        lambda content: b"",
        lambda content: b"[]\n",
        lambda content: content.replace(b'"format": 1', b'"format": 2'),
    ],
)
def test_a_damaged_window_is_refused(tmp_path, damage):
    path = saved(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ConfigurationError, match="damaged"):
        loading(tmp_path)


def test_a_missing_window_is_refused_once_something_was_released(tmp_path):
    loading(tmp_path, released=0)
    with pytest.raises(ConfigurationError, match="is missing"):
        loading(tmp_path, released=1)
