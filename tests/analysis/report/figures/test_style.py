"""Looks of strategies and rules: fixed for known names, stable and distinct for others."""

from __future__ import annotations

import subprocess
import sys

from userdp.analysis.report.figures import style


def test_an_unknown_strategy_has_a_look_that_no_known_one_has():
    known = {(style.of(name, "").colour, style.of(name, "").marker) for name in style._STRATEGIES}
    for name in ("my_package.mechanisms.Mine", "other"):
        look = style.of(name, "random")
        assert (look.colour, look.marker) not in known
        assert look == style.of(f"{name} (NOT PRIVATE)", "random")


def test_looks_of_unknown_names_are_the_same_in_every_process():
    code = (
        "from userdp.analysis.report.figures import style;"
        "print(style.of('mine', 'random'), style.of('user_wise', 'my_rule'))"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1] != ""


def test_an_unknown_rule_is_told_apart_from_the_usual_one():
    assert style.of("user_wise", "my_rule") != style.of("user_wise", "random")
    assert style.of("user_wise", "my_rule").colour == style.of("user_wise", "random").colour
