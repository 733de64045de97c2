"""Whole runs by the command, and what their folders hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from helpers import small_world
from userdp.server import strategy as server_strategy
from userdp.sim import cli


def ran(folder: Path | str, *overrides: str) -> Path:
    """The folder of a run that ended well."""
    assert cli.main(["run", *small_world.overrides(f"output={folder}", *overrides)]) == 0
    return Path(folder)


def adapter(folder: Path) -> np.ndarray:
    tensors = safetensors.numpy.load_file(folder / "adapter" / "adapter_model.safetensors")
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


def stated(folder: Path) -> dict:
    return json.loads((folder / "privacy_statement.json").read_text())


def logged(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def check_refused(capsys: pytest.CaptureFixture[str], arguments: list[str], *told: str) -> str:
    """The one line of a refusal, which names all of ``told``."""
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert err.startswith("userdp: error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for part in told:
        assert part in err, err
    assert out == ""
    return err


def stopped(folder: Path | str, number: int, *overrides: str) -> Path:
    """The folder of a run that was interrupted after the intent of a round."""
    add = server_strategy.PrivateStrategy._aggregated

    def stopping(self: server_strategy.PrivateStrategy, replies: Any) -> Any:
        if self.number == number:
            raise KeyboardInterrupt
        return add(self, replies)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server_strategy.PrivateStrategy, "_aggregated", stopping)
        arguments = small_world.overrides(f"output={folder}", *overrides)
        assert cli.main(["run", *arguments]) == 130
    return Path(folder)
