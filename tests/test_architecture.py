"""Rules that the syntax trees keep: rooms and their order, size, assert, global randomness."""

from __future__ import annotations

import ast
import functools
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("sim", "clients", "server", "analysis")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
NAMES = {
    "userdp." + path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path
    for path in FILES
}

# The rooms from the ground up. A module imports its own room or a lower one; a room is the folder
# of this name, without those below it that are rooms of their own.
ROOMS = [
    "sim.common",
    "sim.protocol",
    "sim.tracking",
    "sim.data.sources",
    "sim.data",
    "sim.data.synthetic",
    "clients.tokenization",
    "clients.batching",
    "clients.checkpoints",
    "clients.kernels",
    "clients.quantization",
    "clients.models",
    "clients.training",
    "clients.evaluation",
    "clients.generation",
    "clients",
    "server.accounting.events",
    "server.accounting.pld",
    "server.accounting.edgeworth",
    "server.accounting",
    "server.ledger",
    "server.mechanisms",
    "server.mechanisms.concentrated",
    "server.mechanisms.matrix_factorization",
    "server.statement",
    "server.optimizers",
    "server",
    "sim.runtime",
    "sim.run_folder",
    "sim.config",
    "sim.planning",
    "sim.console",
    "sim.inputs",
    "sim.run.simulation_only",
    "sim.run.evidence",
    "sim.run.health",
    "sim.run",
    "sim.saved_run",
    "sim.federation",
    "sim.sweep",
    "analysis.aggregates",
    "analysis.report.figures",
    "analysis.report.page",
    "analysis.report",
    "analysis.benchmark.peers",
    "analysis.benchmark",
    "analysis.comparison",
    "analysis.audit",
    "analysis.datasets",
    "analysis.user_inference",
    "sim",
    "sim.userdp",
    "analysis.examples",
]
# Where a library may be imported: a module, or a room with all that is in it. Others are free.
LIBRARIES = {
    "flwr": {
        *("sim.protocol", "sim.runtime", "clients.app", "server.app", "server.strategy"),
        *("server.reply_check", "server.roll_call", "server.time_limit"),
        *("server.aggregation", "server.secure_sum"),
        *("sim.run", "sim.flower_app", "sim.federation.node", "analysis.benchmark"),
    },
    "cryptography": {
        *("sim.protocol.secure_sum", "clients.node_keys", "sim.federation.certificates"),
    },
    "httpx": {"sim.runtime.flower_api"},
    "ray": {"sim.runtime.ray_engine", "analysis.benchmark.peers"},
    "psutil": {"sim.runtime.ray_engine"},
    "triton": {"clients.kernels"},
    "wandb": {"sim.tracking.wandb_tracker", "analysis.report.wandb_summary"},
    "tensorboard": {"sim.tracking.tensorboard_tracker"},
    "hydra": {"sim.config.hydra_compose", "sim.sweep.launcher", "sim.run.prepare"},
    "omegaconf": {
        "sim.config",
        "sim.sweep",
        "sim.run",
        "analysis.benchmark",
        "analysis.comparison",
    },
    "pydantic": {"sim.config"},
    # A benchmark and an example run plain peft beside us.
    "peft": {
        *("clients.models.peft_adapter", "clients.models.participation"),
        "clients.evaluation.plain_peft",
        *("analysis.benchmark.peers", "analysis.examples"),
    },
    "transformers": {
        *("clients", "sim.common.third_party", "sim.inputs.precision"),
        "sim.inputs.passed_probes",
        *("analysis.benchmark", "analysis.examples", "analysis.datasets.base_model"),
    },
    "huggingface_hub": {
        *("server.statement.card_metadata", "sim.inputs.licence", "sim.saved_run.push"),
    },
    "torchao": {"clients.quantization"},
    "bitsandbytes": {"clients.quantization"},
    "liger_kernel": {"clients.training.liger_loss"},
    "rouge_score": {"clients.evaluation.rouge"},
    "opacus": {"server.accounting", "analysis.benchmark.peers.opacus"},
    "pfl": {"analysis.benchmark.peers.pfl"},
    "dp_accounting": {"server.accounting"},
    "datasets": {"sim.data.sources", "sim.common.third_party"},
    "rich": {"sim", "clients.models.embedded", "analysis"},
    "matplotlib": {"analysis.report.figures"},
    "jinja2": {"analysis.report.page"},
}
# Settings are plain values beyond these rooms.
MAY_KNOW_SETTINGS = {
    *("sim.config", "sim.planning", "sim.inputs", "sim.run", "sim.sweep", "sim.api", "sim.cli"),
    *("sim.federation", "sim.saved_run"),
    *("analysis.comparison", "analysis.audit", "analysis.report.wandb_summary"),
    "analysis.user_inference",
}
# Names of single mechanisms, clip rules, accountants, sources, selection rules and runtimes that
# general code must not know: it asks their table.
PARTICULAR = {
    "user_wise": {"server.mechanisms", "analysis"},
    "group_privacy": {"server.mechanisms", "analysis"},
    "concentrated": {"server.mechanisms", "analysis"},
    "matrix_factorization": {"server.mechanisms", "analysis"},
    "non_private": {"server.mechanisms", "analysis"},
    "pld": {"server.accounting"},
    "prv": {"server.accounting"},
    "rdp": {"server.accounting"},
    "edgeworth": {"server.accounting"},
    "jsonl": {
        *("sim.data.sources", "sim.run.trackers", "sim.config.settings"),
        "sim.saved_run.generate",  # the option of a file that it writes
    },
    "csv": {"sim.data.sources"},
    "parquet": {"sim.data.sources"},
    "synthetic": {"sim.data.sources", "sim.data.synthetic"},
    "form_letters": {"sim.data.sources", "sim.data.synthetic"},
    "random_chunk": {"sim.data.selection"},
    "high_perplexity": {"sim.data.selection"},
    "low_perplexity": {"sim.data.selection"},
    "in_process": {"sim.runtime", "sim.config.settings"},
    "ray": {"sim.runtime"},
    "flower": {"sim.runtime"},
    "superlink": {"sim.runtime", "sim.federation"},
    "joint": {"clients.training", "sim.protocol.contract", "server.mechanisms.base"},
}
RENAMED = "sim.common.renamed"  # holds old names of particular things: that is what it is for
MAX_FILE, MAX_BODY, MAX_FOLDER, MAX_TEXT = 400, 40, 14, 120


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


@functools.cache
def imports(path: Path) -> set[str]:
    """Dotted names of all imported modules, inside functions too."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                module = name in NAMES or f"{name}.__init__" in NAMES
                found.add(name if module else str(node.module))
    return found


@functools.cache
def ours(path: Path) -> set[str]:
    """Imported modules of the project, without its import name; a package stands for itself."""
    return {name for name in imports(path) if name.split(".")[0] == "userdp"}


def room(module: str) -> str:
    """The smallest room that holds a module, or that is this package."""
    inside = module.removeprefix("userdp.").removesuffix(".__init__")
    while inside not in ROOMS:
        inside = inside.rpartition(".")[0]
        assert inside, f"{module} is in no room"
    return inside


def covers(allowed: set[str], name: str) -> bool:
    inside = name.removeprefix("userdp.").removesuffix(".__init__")
    return any(inside == a or inside.startswith(f"{a}.") for a in allowed)


def for_every_module(rule: Callable[[str], None]) -> Callable[[], None]:
    """Make the rule for one module a test of all of them, which names those that break it."""

    def test() -> None:
        broken = {}
        for name in NAMES:
            try:
                rule(name)
            except AssertionError as error:
                broken[name] = str(error).partition("\n")[0]
        assert not broken

    test.__name__ = rule.__name__
    return test


@for_every_module
def test_a_module_imports_its_own_room_or_a_lower_one(name):
    for other in ours(NAMES[name]):
        if other != "userdp":
            assert ROOMS.index(room(other)) <= ROOMS.index(room(name)), f"{name} imports {other}"


@for_every_module
def test_clients_and_server_never_import_each_other(name):
    for one, other in (("clients", "server"), ("server", "clients")):
        if covers({one}, name):
            assert not {module for module in ours(NAMES[name]) if covers({other}, module)}


@for_every_module
def test_only_the_command_and_the_interface_import_analysis(name):
    if not covers({"analysis", "sim.cli", "sim.api"}, name):
        assert not {module for module in ours(NAMES[name]) if covers({"analysis"}, module)}


@for_every_module
def test_modules_import_one_another_without_a_circle(name):
    seen, todo = set(), ours(NAMES[name])
    while todo:
        other = todo.pop()
        if other in NAMES and other not in seen:
            seen.add(other)
            todo |= ours(NAMES[other])
    assert name not in seen


@for_every_module
def test_libraries_are_imported_where_they_belong(name):
    for other in imports(NAMES[name]):
        holders = LIBRARIES.get(other.split(".")[0])
        assert holders is None or covers(holders, name), f"{name} imports {other}"


@for_every_module
def test_settings_stop_at_configuration_planning_and_run(name):
    if not covers(MAY_KNOW_SETTINGS, name):
        assert not {module for module in ours(NAMES[name]) if covers({"sim.config"}, module)}


def text_constants(module: ast.Module) -> set[str]:
    """String constants of the code, without docstrings."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(module)
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return {
        node.value
        for node in ast.walk(module)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if id(node) not in docstrings
    }


@for_every_module
def test_general_code_names_no_particular_mechanism_accountant_or_source(name):
    if covers({RENAMED, "analysis"}, name):
        return
    constants = text_constants(tree(NAMES[name]))
    named = {
        word for word, rooms in PARTICULAR.items() if word in constants and not covers(rooms, name)
    }
    assert not named


@for_every_module
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


@for_every_module
def test_no_global_random_generator_is_used(name):
    if name != "userdp.analysis.examples.one_round":  # for readers, its generators in plain sight
        assert global_randomness(tree(NAMES[name])) == []


def test_a_rule_that_a_module_breaks_fails_and_names_it():
    def rule(name):
        assert name != "userdp.sim.cli"

    with pytest.raises(AssertionError, match=r"userdp\.sim\.cli"):
        for_every_module(rule)()


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


@for_every_module
def test_a_file_begins_with_what_it_does_and_holds_at_most_400_lines(name):
    lines = NAMES[name].read_text().splitlines()
    assert len(lines) <= MAX_FILE
    docstring = ast.get_docstring(tree(NAMES[name]))
    assert docstring
    assert docstring.splitlines()[0][-1] in ".:!"


def body_lines(function: ast.FunctionDef) -> int:
    """Lines of a function's body without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


@for_every_module
def test_function_bodies_are_at_most_forty_lines(name):
    functions = [n for n in ast.walk(tree(NAMES[name])) if isinstance(n, ast.FunctionDef)]
    assert not {f.name: body_lines(f) for f in functions if body_lines(f) > MAX_BODY}


def code_folders() -> list[Path]:
    return sorted({path.parent for path in FILES})


@pytest.mark.parametrize("folder", code_folders(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_folder_holds_at_most_fourteen_files(folder):
    assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= MAX_FOLDER


def test_every_package_is_listed_for_the_wheel():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    packages = {"userdp"} | {
        "userdp." + str(folder.relative_to(ROOT)).replace("/", ".")
        for folder in [*code_folders(), ROOT / "conf"]
        if folder != ROOT / "sim" / "userdp"
    }
    assert set(listed) == packages
    assert all((folder / "__init__.py").exists() for folder in code_folders())


def text_files() -> list[Path]:
    kinds = ("*.md", "*.yaml", "*.toml", "*.cff")
    places = [ROOT, ROOT / "docs", *sorted((ROOT / "conf").rglob("*/"))]
    return sorted({path for place in places for kind in kinds for path in place.glob(kind)})


@pytest.mark.parametrize("path", text_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_of_text_wrap_at_120_characters(path):
    lines = enumerate(path.read_text().splitlines(), 1)
    assert not [number for number, line in lines if len(line) > MAX_TEXT]


def test_tests_mirror_the_tree():
    """Every folder of tests is one of the code's; helpers and data are apart."""
    apart = {"helpers", "old_runs", "extension", "trust"}
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("*.py")}
    rooms = {folder.relative_to(ROOT) for folder in code_folders()}
    assert {f for f in folders if f.parts and f.parts[0] not in apart} <= rooms | {Path()}


# What writes a file otherwise than by `durable_file.replace`, and why.
OTHER_WRITERS = {
    "sim.common.durable_file",  # the mechanism itself
    "sim.common.cache",  # a folder that is renamed as a whole
    "server.ledger.ledger",  # grows by lines
    "sim.tracking.tracker",  # grows by lines
    "sim.sweep.sweep",  # the output of a job, a log
    "sim.federation.processes",  # the output of a process, a log
    "sim.federation.shard",  # grows by lines
    "sim.console.streams",  # the null device
    "sim.data.population",  # inside a folder of the cache, from here
    "sim.data.population_writer",
    "sim.data.corpus",
    "sim.run.base_score",
    "sim.run.record_perplexity",
    "clients.models.embedded",  # to here
    "clients.checkpoints.beside_adapter",  # of a temporary folder
    "analysis.benchmark",  # of temporary folders, /proc, and a table that grows by rows
    "analysis.datasets.download",  # of any size, renamed when it is complete
    "analysis.datasets.base_model",  # a model that anybody can train again
}
LOCKS = {"sim.sweep.jobs"}  # opens files to lock them


def mode_of(call: ast.Call, place: int, unknown: str) -> str:
    """The mode of a call that opens a file; ``unknown`` where it is no constant."""
    given = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    mode = (given or call.args[place : place + 1] or [ast.Constant("r")])[0]
    return mode.value if isinstance(mode, ast.Constant) and isinstance(mode.value, str) else unknown


def written(module: ast.Module) -> list[tuple[int, str]]:
    """Calls that write a file, whatever they write to."""
    found = []
    names = {"write_text", "write_bytes", "save_file", "savefig", "save_pretrained", "to_csv"}
    whole = {"np.save", "np.savez", "torch.save", "json.dump", "yaml.dump", "OmegaConf.save"}
    for node in ast.walk(module):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        last = name.rpartition(".")[2]
        opens = last in ("open", "fdopen") and name != "os.open"
        place = 1 if name in ("open", "io.open", "os.fdopen") else 0
        if (
            last in names
            or name in whole
            or (opens and set(mode_of(node, place, "w")) & set("wax+"))
        ):
            found.append((node.lineno, name))
    return found


# Into a buffer, which is then written by the mechanism; and the reading of a source of records.
NO_FILES = {"drawn.savefig", "torch.save", "source.open", "archive.open"}


@for_every_module
def test_files_are_written_by_the_one_mechanism_that_replaces_them_whole(name):
    if not covers(OTHER_WRITERS | LOCKS, name):
        assert [call for call in written(tree(NAMES[name])) if call[1] not in NO_FILES] == []


def without_encoding(module: ast.Module) -> list[tuple[int, str]]:
    """Calls that read or write a text in whichever encoding the machine prefers."""
    found = []
    for node in ast.walk(module):
        if not isinstance(node, ast.Call) or any(k.arg == "encoding" for k in node.keywords):
            continue
        name = dotted(node.func)
        last = name.rpartition(".")[2]
        place = 1 if name in ("open", "io.open", "os.fdopen") else 0
        opens = (
            last in ("open", "fdopen")
            and name != "os.open"
            and "b" not in mode_of(node, place, "b")
        )
        if last in ("read_text", "write_text") or opens:
            found.append((node.lineno, name))
    return found


@for_every_module
def test_texts_are_read_and_written_in_a_named_encoding(name):
    if not covers({"analysis.benchmark"}, name):
        calls = without_encoding(tree(NAMES[name]))
        assert [call for call in calls if call[1] not in NO_FILES] == []


@pytest.mark.parametrize(
    ("code", "check"),
    [
        ("path.write_text(x, encoding='utf-8')", written),
        ("open(path, 'w')", written),
        ("path.open('ab')", written),
        ("OmegaConf.save(x, path)", written),
        ("path.read_text()", without_encoding),
        ("open(path)", without_encoding),
        ("path.open('w', newline='')", without_encoding),
    ],
)
def test_the_checks_find_other_writers_and_lacking_encodings(code, check):
    assert check(ast.parse(code))
