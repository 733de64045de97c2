"""Mutations of the privacy path: small wrong edits, each of which a fast test has to notice.

Each is applied to a copy of the tree, never to the tree itself, and the named tests run on the
copy. A mutation is caught where they fail. One that survives is a promise that no test holds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("sim", "clients", "server", "analysis", "conf")
LIMIT = 900  # seconds that the tests of a mutation may take, on a busy machine too


@dataclass(frozen=True)
class Mutation:
    """A wrong edit of one file, and the tests that have to fail under it."""

    name: str
    file: str
    old: str  # occurs exactly once in the file
    new: str
    tests: str  # arguments of pytest, separated by blanks


_SAMPLING = "tests/server/mechanisms/test_sampling.py"
_BASE = "tests/server/mechanisms/test_base.py tests/server/mechanisms/test_user_wise.py"
_STRATEGY = "tests/server/test_strategy.py"
_LEDGER = "tests/server/ledger/test_ledger.py"
_CLIP = "tests/clients/training/test_clipping.py"
_REPLY = "tests/server/test_reply_check.py"
MUTATIONS = [
    Mutation(
        "coins of a slightly higher rate",
        "server/mechanisms/sampling.py",
        "geometric_gaps(stream, count, rate, size)",
        "geometric_gaps(stream, count, min(0.999, 1.15 * rate), size)",
        _SAMPLING,
    ),
    Mutation(
        "a capped cohort keeps its first users",
        "server/mechanisms/sampling.py",
        "np.lexsort(keys[::-1])[:cap]",
        "np.arange(cap)",
        _SAMPLING,
    ),
    Mutation(
        "three per cent too little noise",
        "server/mechanisms/noise_grid.py",
        "return total + noise_std * rng",
        "return total + 0.97 * noise_std * rng",
        "tests/server/mechanisms/test_noise_scale.py",
    ),
    Mutation(
        "noise of the mean for the sum",
        "server/mechanisms/base.py",
        "noise_std = self.noise_std / self.expected_units",
        "noise_std = self.noise_std",
        "tests/server/mechanisms/test_noise_scale.py",
    ),
    Mutation(
        "clip bits without noise",
        "server/mechanisms/base.py",
        "noise_grid.noised(exact, std, stream",
        "noise_grid.noised(exact, 0 * std, stream",
        "tests/server/mechanisms/test_adaptive_clip.py",
    ),
    Mutation(
        "divided by the cohort that took part",
        "server/mechanisms/base.py",
        "mean = noised / self.expected_units",
        'mean = noised / max(1.0, cohort.figures.get("cohort_size", 1.0))',
        f"{_BASE} {_STRATEGY}",
    ),
    Mutation(
        "update and bits priced apart",
        "server/mechanisms/adaptive_clip.py",
        "return noise_multiplier / math.sqrt(1 - share**2)",
        "return noise_multiplier",
        "tests/server/mechanisms/test_adaptive_clip.py",
    ),
    Mutation(
        "a clip that lets a hair through",
        "clients/training/clipping.py",
        "limit = clip_norm * (1.0 - (rows.shape[1] + 8) * 2.0**-53)",
        "limit = clip_norm * (1.0 + 2.0**-20)",
        _CLIP,
    ),
    Mutation(
        "a not-finite update passes the clip",
        "clients/training/clipping.py",
        "torch.where(finite, (limit / norms).clamp(max=1.0), 0.0)",
        "(limit / norms).clamp(max=1.0)",
        _CLIP,
    ),
    Mutation(
        "norms of updates in float32",
        "clients/kernels/row_sums.py",
        "torch.linalg.vector_norm(wide, dim=1)",
        "torch.linalg.vector_norm(wide.float(), dim=1).double()",
        "tests/clients/kernels/test_row_sums.py",
    ),
    Mutation(
        "a lane's gradient takes a row of the next lane",
        "clients/kernels/lane_products.py",
        "left.transpose(0, 1), right.view(*left.shape[1:], right.shape[1])",
        "left.transpose(0, 1), right.roll(-1, 0).view(*left.shape[1:], right.shape[1])",
        "tests/clients/kernels/test_lane_products.py",
    ),
    Mutation(
        "messages before the intent",
        "server/strategy.py",
        "        self.ledger.intend(self.number, self.mechanism.ledger_event(), "
        "self.mechanism.queries())\n",
        "",
        _STRATEGY,
    ),
    Mutation(
        "the budget is asked one round late",
        "server/strategy.py",
        "self.ledger.rounds_intended >= self.budget.rounds",
        "self.ledger.rounds_intended > self.budget.rounds",
        _STRATEGY,
    ),
    Mutation(
        "a second reply of a node is added",
        "server/strategy.py",
        "        if node in self._answered:\n"
        '            raise self._stop(f"node {node} sent a second reply")\n'
        "        if node not in self._sent:\n",
        "        if node in self._answered:\n"
        "            return\n"
        "        if node not in self._sent:\n",
        _STRATEGY,
    ),
    Mutation(
        "a node's sum of any length is added",
        "server/reply_check.py",
        "    if norm > limit * (1.0 + _margin(units, len(total))):",
        "    if norm > 100 * limit:",
        _REPLY,
    ),
    Mutation(
        "an intent that is not forced to the disk",
        "server/ledger/ledger.py",
        "os.fsync(self._file.fileno())",
        "None",
        _LEDGER,
    ),
    Mutation(
        "a resumed run forgets a round that was not finished",
        "server/ledger/ledger.py",
        "        rounds=len(chain.done),",
        "        rounds=sum(chain.done.values()),",
        _LEDGER,
    ),
    Mutation(
        "noise from a seed in every run",
        "sim/common/rng.py",
        "            return OsEntropy()",
        "            return Replayed(generator(0, purpose, number))",
        f"tests/sim/common/test_rng.py {_STRATEGY}",
    ),
    Mutation(
        "uniforms with half of their bits",
        "sim/common/rng.py",
        "return np.frombuffer(os.urandom(8 * size), np.uint64)",
        "return np.frombuffer(os.urandom(8 * size), np.uint64) >> np.uint64(32)",
        "tests/sim/common/test_rng.py",
    ),
    Mutation(
        "true losses are written by a strict run",
        "sim/tracking/metric_kinds.py",
        "for key, value in simulation_only.items() if keep}",
        "for key, value in simulation_only.items()}",
        "tests/sim/tracking",
    ),
    Mutation(
        "a strict run prints how many users there are",
        "sim/run/runner.py",
        "    if prepared.settings.track.simulation_only and len(train):",
        "    if True:",
        "tests/sim/test_firewall.py",
    ),
    Mutation(
        "selection keyed by the line in the file",
        "clients/batching/unit_records.py",
        "    key = int(population.user_keys[user])\n    source",
        "    key = user\n    source",
        "tests/clients/batching/test_unit_records.py",
    ),
    Mutation(
        "a name in the cache is a plain hash",
        "sim/common/cache.py",
        "hmac.new(key, ",
        'hmac.new(b"", ',
        "tests/sim/common/test_cache.py",
    ),
    Mutation(
        "a lane's gradient holds its neighbour's",
        "clients/training/block_gradient.py",
        "    return block.rows, loss",
        "    return block.rows + 0.01 * block.rows.roll(1, 0), loss",
        "tests/clients/training/test_cohort_update.py",
    ),
    Mutation(
        "the stated epsilon is the lower end",
        "server/statement/claim.py",
        "        epsilon=figures[delta].upper,",
        "        epsilon=figures[delta].lower,",
        "tests/server/statement",
    ),
    Mutation(
        "inputs of a quantised layer in 8 bits, under one scale of the stack",
        "clients/quantization/quantized_linear.py",
        "y = nn.functional.linear(x, codes.to(x.dtype))",
        "step = x.abs().amax() / 127\n"
        "        y = nn.functional.linear((x / step).round() * step, codes.to(x.dtype))",
        "tests/clients/quantization/test_quantized_linear.py",
    ),
]


def copied(folder: Path) -> Path:
    """A copy of the tree's tracked and new files in ``folder``, importable as ``userdp``."""
    listed = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"]
    for name in subprocess.check_output(listed, text=True).splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    links = folder / "linked" / "userdp"
    links.mkdir(parents=True)
    (links / "__init__.py").symlink_to(folder / "sim" / "userdp" / "__init__.py")
    for room in ROOMS:
        (links / room).symlink_to(folder / room)
    return folder


def survives(mutation: Mutation, tree: Path) -> bool:
    """Whether the mutation's tests pass in spite of it; the copy is as before afterwards.

    Raises:
        ValueError: the text to replace does not occur exactly once.
    """
    path = tree / mutation.file
    sound = path.read_text()
    if sound.count(mutation.old) != 1:
        raise ValueError(f"{mutation.name}: the text to replace is not once in {mutation.file}.")
    path.write_text(sound.replace(mutation.old, mutation.new))
    try:
        return tests_pass(mutation.tests.split(), tree)
    finally:
        path.write_text(sound)


def tests_pass(tests: list[str], tree: Path) -> bool:
    """Whether these fast tests pass on the copy.

    Raises:
        RuntimeError: pytest could not run them.
    """
    options = ["-x", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-m", "not slow"]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    paths = os.pathsep.join([str(tree / "linked"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, timeout=LIMIT
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest {' '.join(tests)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0
