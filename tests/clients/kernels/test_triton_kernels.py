"""The Triton kernels, without a GPU: run by Triton's interpreter, and compiled for three kinds.

Each in a process of its own: the interpreter must be chosen before Triton is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.ragged import SMALL

pytest.importorskip("triton")
TESTS = Path(__file__).parents[2]


def printed(script, *arguments, **environment):
    """What a script beside this file prints last."""
    known = os.environ | {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"} | environment
    known.pop("TRITON_INTERPRET", None) if "TRITON_INTERPRET" not in environment else None
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(script)), *arguments],
        env=known, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_interpreted_kernels_compute_the_products_of_float64_and_its_norms_and_sums():
    found = printed("interpreted.py", TRITON_INTERPRET="1")
    assert len(found["products"]) == 9
    assert max(found["products"]) < SMALL
    assert found["lane"] is True
    programs, same = found["long"]
    assert programs == [4 + 5603 // 1024] * 2
    assert same is True
    assert len(found["sums"]) == 5
    assert max(found["sums"]) < 1e-14


@pytest.mark.slow
def test_interpreted_kernels_compute_the_products_of_a_thousand_lanes():
    assert printed("interpreted.py", "many", TRITON_INTERPRET="1") < SMALL


def test_the_kernels_compile_for_a_gpu_and_multiply_bfloat16_on_its_matrix_units(tmp_path):
    found = printed("compiled.py", TRITON_CACHE_DIR=str(tmp_path))
    assert set(found) == {"80", "90", "100"}
    for kernels in found.values():
        assert kernels == {
            "products": ["plain", "tensor core"],
            "atomic": [False] * 3,
            "sums": [True] * 3,
        }
