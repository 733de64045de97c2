"""Rules that the syntax trees keep: who imports whom, no assert, no global randomness, size."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("sim", "clients", "server", "analysis")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
NAMES = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path for path in FILES
}

# What both sides may know of the world. Everything else in `sim` but the grid is the root: it
# composes a run, and may import anything.
LEAVES = {
    *(
        "userdp.sim.data.population",
        "userdp.sim.data.selection",
        "userdp.sim.common.rng",
        "userdp.sim.protocol.messages",
        "userdp.sim.tracking.tracker",
        "userdp.sim.tracking.metric_kinds",
    ),
    *(
        "userdp.sim.data.loading",
        "userdp.sim.data.sources.registry",
        "userdp.sim.data.holdout",
        "userdp.sim.common.cache",
        "userdp.sim.common.errors",
    ),
    *(
        "userdp.sim.data.masking",
        "userdp.sim.data.records",
        "userdp.sim.protocol.contract",
        "userdp.sim.data.sources.base",
        "userdp.sim.data.sources.readers",
        "userdp.sim.common.file_hash",
    ),
    "userdp.sim.data.population_writer",
    *(
        "userdp.sim.data.synthetic.users",
        "userdp.sim.data.corpus",
        "userdp.sim.data.synthetic.grammar",
        "userdp.sim.data.synthetic.private_phrases",
        "userdp.sim.data.synthetic.public_pages",
        "userdp.sim.data.synthetic.public_stories",
    ),
    "userdp.sim.data.synthetic.form_letters",
}
GRID = "userdp.sim.runtime.in_process"
ROOT_FILES = {name for name in NAMES if name.startswith("sim.")} - LEAVES - {GRID, "sim.__init__"}
MAY_DRIVE_A_RUN = {
    *(
        "analysis.audit",
        "userdp.analysis.comparison.command",
        "userdp.analysis.comparison.jobs",
        "userdp.analysis.examples.quickstart",
    ),
    *(
        "userdp.analysis.benchmark.command",
        "userdp.analysis.benchmark.cases",
        "userdp.analysis.benchmark.private_round",
    ),
}
PEERS = "analysis.peers"  # runs where userdp is not installed
MAY_READ_LEDGERS = {"userdp.sim.run_folder.composed_epsilon"}
# What a page takes from beside the run folders: the words of a claim, figures, one-line errors.
REPORTS = {"userdp.analysis.report.command", "analysis.reporting"}
MAY_REPORT = {
    "analysis",
    "server.accounting",
    "userdp.server.statement.prose",
    "userdp.sim.common.errors",
}
DRIVERS = ROOT_FILES | MAY_DRIVE_A_RUN
# Where a third party may be known: a module, or a package with all its modules.
THIRD_PARTIES = {
    "flwr": {
        *(
            "userdp.sim.protocol.messages",
            GRID,
            "userdp.clients.app",
            "userdp.server.app",
            "userdp.server.strategy",
        ),
        *(f"{PEERS}.flower_ray", *DRIVERS),
    },
    "wandb": {"userdp.sim.tracking.wandb_tracker", "userdp.sim.sweep.wandb_summary"},
    "tensorboard": {"userdp.sim.tracking.tensorboard_tracker"},
    "hydra": DRIVERS,
    "omegaconf": DRIVERS,
    "pydantic": ROOT_FILES,
    "peft": {"userdp.clients.models.peft_adapter", PEERS},  # a benchmark runs plain peft beside us
    "transformers": {"clients", PEERS, *DRIVERS},
    "opacus": {"server.accounting", f"{PEERS}.opacus"},
    "pfl": {f"{PEERS}.pfl"},
    "dp_accounting": {"server.accounting"},
    "datasets": {"sim"},
    "rich": {"sim", "userdp.clients.models.embedded", "analysis"},
    "matplotlib": {"analysis.reporting"},
    "jinja2": {"analysis.reporting"},
}
MAX_FILE, MAX_BODY = 250, 40


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(path: Path) -> set[str]:
    """Dotted names of all imported modules, inside functions too."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in NAMES else str(node.module) for name in names}
    return found


def ours(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] in PACKAGES}


def covers(allowed: set[str], name: str) -> bool:
    return any(name == a or name.startswith(f"{a}.") for a in allowed)


def allowed_imports(name: str) -> set[str]:
    """Prefixes of our modules that a module may import."""
    package = name.split(".")[0]
    if name in LEAVES:
        return LEAVES
    if name == GRID:
        return {"userdp.sim.protocol.messages", "userdp.sim.common.errors"}
    if package in ("clients", "server"):
        return LEAVES | {package}
    if covers({PEERS}, name):
        return {PEERS}
    if covers(REPORTS, name):
        return MAY_REPORT
    if name in MAY_READ_LEDGERS:
        return {"analysis", "server"}
    if package == "analysis" and name not in MAY_DRIVE_A_RUN:
        return {"analysis", "userdp.sim.common.errors"}
    return set(PACKAGES)


modules = pytest.mark.parametrize("name", NAMES)


@modules
def test_a_module_imports_only_what_its_layer_may_know(name):
    wrong = {other for other in ours(NAMES[name]) if not covers(allowed_imports(name), other)}
    assert not wrong


@modules
def test_the_root_is_imported_by_nobody_but_itself_and_what_drives_runs(name):
    if name in DRIVERS:
        return
    assert not {other for other in ours(NAMES[name]) if covers(ROOT_FILES, other)}


@modules
def test_third_parties_are_known_where_they_belong(name):
    for other in imports(NAMES[name]):
        holders = THIRD_PARTIES.get(other.split(".")[0])
        assert holders is None or covers(holders, name), f"{name} imports {other}"


@modules
def test_modules_import_one_another_without_a_cycle(name):
    seen, todo = set(), ours(NAMES[name])
    while todo:
        other = todo.pop()
        if other in NAMES and other not in seen:
            seen.add(other)
            todo |= ours(NAMES[other])
    assert name not in seen


@modules
def test_no_assert_guards_anything(name):
    assert not [n.lineno for n in ast.walk(tree(NAMES[name])) if isinstance(n, ast.Assert)]


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def seeded_inside_fork(module: ast.Module) -> set[int]:
    """Lines of statements under ``with torch.random.fork_rng()``."""
    return {
        inner.lineno
        for node in ast.walk(module)
        if isinstance(node, ast.With)
        and any("fork_rng" in ast.dump(item.context_expr) for item in node.items)
        for inner in ast.walk(node)
        if hasattr(inner, "lineno")
    }


def global_randomness(module: ast.Module) -> list[tuple[int, str]]:
    """Uses of generators that any other code could seed or drain."""
    standard = {alias.asname or alias.name for node in ast.walk(module)
                if isinstance(node, ast.Import) for alias in node.names
                if alias.name in ("random", "secrets")}  # fmt: skip
    fine = {"np.random.Generator", "np.random.PCG64", "random.Random"}
    forked = seeded_inside_fork(module)
    found = []
    for node in ast.walk(module):
        name = dotted(node)
        ours_only = name.startswith("np.random.") or name.split(".")[0] in standard
        if isinstance(node, ast.Attribute) and ours_only and name not in fine:
            found.append((node.lineno, name))
        if isinstance(node, ast.ImportFrom) and node.module in ("random", "numpy.random"):
            found.append((node.lineno, node.module))
        torchs = {"torch.manual_seed", "torch.seed", "torch.cuda.manual_seed", "torch.rand",
                  "torch.randn", "torch.randint", "torch.randperm", "torch.normal",
                  "torch.bernoulli"}  # fmt: skip
        generator = isinstance(node, ast.Call) and any(k.arg == "generator" for k in node.keywords)
        if isinstance(node, ast.Call) and dotted(node.func) in torchs and not generator:
            found += [(node.lineno, dotted(node.func))] * (node.lineno not in forked)
    return found


@modules
def test_no_global_random_generator_is_used(name):
    assert global_randomness(tree(NAMES[name])) == []


@pytest.mark.parametrize(
    "code",
    [
        "import numpy as np\nnp.random.seed(0)",
        "import numpy as np\nx = np.random.default_rng()",
        "import random\nrandom.shuffle([1])",
        "from random import random",
        "import torch\ntorch.manual_seed(0)",
        "import torch\ntorch.randn(3)",
    ],
)
def test_the_check_finds_global_randomness(code):
    assert global_randomness(ast.parse(code))


@modules
def test_a_file_says_what_it_knows_and_stays_short(name):
    lines = NAMES[name].read_text().splitlines()
    assert len(lines) <= MAX_FILE
    assert not lines or ast.get_docstring(tree(NAMES[name]))


def body_lines(function: ast.FunctionDef) -> int:
    """Lines of a function's body without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


@modules
def test_function_bodies_are_at_most_forty_lines(name):
    functions = [n for n in ast.walk(tree(NAMES[name])) if isinstance(n, ast.FunctionDef)]
    assert not {f.name: body_lines(f) for f in functions if body_lines(f) > MAX_BODY}
