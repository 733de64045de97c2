"""Pass rates of the concentration test, with and without simulation_only figures, by hand."""

from __future__ import annotations

from helpers import run_folders
from userdp.analysis.aggregates import concentration_pass_rates


def run(folder, *, simulation_only: bool, tau: float | None):
    """Two rounds: the noised test passed once, the true one twice; W is 3 of 4, then 1 of 2."""
    rows = []
    for number, (passed, weight, size) in enumerate(((1, 3.0, 4), (0, 1.0, 2)), 1):
        private = {"true_test_passed": 1, "concentrated_weight": weight, "cohort_size": size}
        logged = {f"simulation_only/{k}": v for k, v in private.items() if simulation_only}
        rows.append({"round": number, "test_passed": passed, **logged})
    return run_folders.write(
        folder,
        strategy="concentrated",
        strategy__tau=tau,
        strategy__clip_norm=0.5,
        summary={"test_pass_rate": 0.5, "epsilon": 2.997},
        metrics=rows,
    )


def test_rates_are_by_tau_and_without_noise_only_where_they_were_logged(tmp_path):
    run(tmp_path / "b", simulation_only=True, tau=0.1)
    run(tmp_path / "a", simulation_only=False, tau=None)
    first, second = concentration_pass_rates.rows(tmp_path)
    assert (first.tau, first.rounds, first.passed) == (1 / 50, 2, 0.5)
    assert (first.true_passed, first.weight) == (None, None)
    assert (second.tau, second.true_passed, second.weight) == (0.2, 1.0, (3 / 4 + 1 / 2) / 2)


def test_the_command_prints_a_table_or_what_is_missing(tmp_path, capsys):
    run_folders.write(tmp_path / "other")
    assert concentration_pass_rates.main([str(tmp_path)]) == 2
    assert "no complete run of strategy=concentrated" in capsys.readouterr().err
    assert concentration_pass_rates.main([]) == 2
    assert "name one folder" in capsys.readouterr().err
    run(tmp_path / "a", simulation_only=False, tau=0.1)
    assert concentration_pass_rates.main([str(tmp_path)]) == 0
    assert "| 0.2 | 3 | 2 | 0.5 |  |  | 400.0 | 100.0 |" in capsys.readouterr().out
