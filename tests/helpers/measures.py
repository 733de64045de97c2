"""Measures a source tree: levels of imports, circles of rooms, sizes, docstrings.

``python tests/helpers/measures.py [ROOT]`` prints them for any checkout of the project, also for
one of before the folders were packages below `userdp`.
"""

from __future__ import annotations

import ast
import functools
import re
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDERS = ("sim", "clients", "server", "analysis")
ARRAYS = re.compile(r"\b(ndarray|NDArray|Tensor|\w*Array)\b")
NO_ARRAYS = re.compile(r"\b(ArrayRecord)\b")
SHAPE = re.compile(r"\([\w .+*/^-]+,[\w ,.+*/^-]*\)|(any|same) shape")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One module of a tree."""

    name: str  # dotted, without the import name of the project; a package is its folder
    path: Path
    room: str  # dotted name of its folder
    tree: ast.Module


@functools.cache
def sources(root: Path) -> tuple[Source, ...]:
    """All modules of a checkout, by path."""
    paths = sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py"))
    found = []
    for path in paths:
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        room = ".".join(parts[:-1])
        found.append(Source(name, path, room, ast.parse(path.read_text(), str(path))))
    return tuple(found)


@functools.cache
def imports(root: Path) -> dict[str, frozenset[str]]:
    """Module -> modules of the project that it imports, inside functions too."""
    names = {source.name for source in sources(root)}
    return {
        source.name: frozenset(_imported(source.tree, names) - {source.name})
        for source in sources(root)
    }


def _imported(tree: ast.Module, names: set[str]) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = node.module.removeprefix("userdp.")
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                found |= {inner if inner in names else module} & names
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("userdp.") for alias in node.names} & names
    return found


def levels(root: Path, folder: str) -> int:
    """Longest chain of imports among the modules of a folder."""
    inside = {name for name in imports(root) if name.split(".")[0] == folder}

    @functools.cache
    def height(name: str) -> int:
        return 1 + max((height(other) for other in imports(root)[name] & inside), default=0)

    return max(height(name) for name in inside)


def room_arrows(root: Path) -> dict[str, set[str]]:
    """Room -> other rooms that its modules import."""
    rooms = {source.name: source.room for source in sources(root)}
    arrows: dict[str, set[str]] = {room: set() for room in rooms.values()}
    for name, imported in imports(root).items():
        arrows[rooms[name]] |= {rooms[other] for other in imported} - {rooms[name]}
    return arrows


def room_levels(root: Path, folder: str) -> int:
    """Longest chain of imports among the rooms of a folder; 0 where they form a circle."""
    arrows = room_arrows(root)
    inside = {room for room in arrows if room.split(".")[0] == folder}
    if any(set(circle) & inside for circle in room_circles(root)):
        return 0

    @functools.cache
    def height(room: str) -> int:
        return 1 + max((height(other) for other in arrows[room] & inside), default=0)

    return max(height(room) for room in inside)


def room_circles(root: Path) -> list[list[str]]:
    """Groups of rooms each of which reaches all the others."""
    arrows = room_arrows(root)

    def reached(room: str) -> set[str]:
        seen: set[str] = set()
        todo = list(arrows[room])
        while todo:
            if (other := todo.pop()) not in seen:
                seen.add(other)
                todo += arrows[other]
        return seen

    reach = {room: reached(room) for room in arrows}
    groups = {frozenset(o for o in reach[r] if r in reach[o]) for r in arrows if r in reach[r]}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def two_way_pairs(root: Path) -> list[tuple[str, str]]:
    """Pairs of rooms that import one another."""
    arrows = room_arrows(root)
    return sorted((a, b) for a in arrows for b in arrows[a] if a < b and a in arrows[b])


def functions(source: Source) -> Iterator[Function]:
    """Functions and methods, without those inside functions."""
    for node in source.tree.body:
        if isinstance(node, Function):
            yield node
        elif isinstance(node, ast.ClassDef):
            yield from (inner for inner in node.body if isinstance(inner, Function))


def body_lines(function: Function) -> int:
    """Lines of a function's body without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def bodies(root: Path) -> list[int]:
    """Lines of the bodies of all functions, nested ones too."""
    return [
        body_lines(node)
        for source in sources(root)
        for node in ast.walk(source.tree)
        if isinstance(node, Function)
    ]


def has_arrays(function: Function) -> bool:
    """Whether an argument or the result is annotated as an array or a tensor."""
    every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    annotations = [arg.annotation for arg in every] + [function.returns]
    texts = [NO_ARRAYS.sub("", ast.unparse(node)) for node in annotations if node is not None]
    return any(ARRAYS.search(text) for text in texts)


def array_functions(root: Path) -> tuple[list[str], list[str]]:
    """Public functions that take or return arrays, and those of them that give no shape."""
    every, without = [], []
    for source in sources(root):
        for function in functions(source):
            if function.name.startswith("_") or not has_arrays(function):
                continue
            place = f"{source.name}:{function.lineno} {function.name}"
            every.append(place)
            if not SHAPE.search(_described(source, function)):
                without.append(place)
    return every, without


def _described(source: Source, function: Function) -> str:
    """The docstring of a function, and the comments of its signature."""
    lines = source.path.read_text().splitlines()
    signature = "\n".join(lines[function.lineno - 1 : function.body[0].lineno])
    comments = "\n".join(line.partition("#")[2] for line in signature.splitlines())
    return f"{ast.get_docstring(function) or ''}\n{comments}"


def raises_untold(root: Path) -> list[str]:
    """Public functions that raise an error which their docstring does not mention."""
    found = []
    for source in sources(root):
        for function in functions(source):
            if function.name.startswith("_") or not _raises(function):
                continue
            if "raises" not in (ast.get_docstring(function) or "").lower():
                found.append(f"{source.name}:{function.lineno} {function.name}")
    return found


def _raises(function: Function) -> bool:
    """Whether the function itself raises an error of its own making."""
    todo, inner = list(function.body), (Function, ast.Lambda, ast.ClassDef)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            return True
        if not isinstance(node, inner):
            todo += list(ast.iter_child_nodes(node))  # type: ignore[arg-type]
    return False


def long_lines(root: Path, limit: int = 120) -> int:
    """Lines of text files at the top, in docs and in conf, that are longer than the limit."""
    kinds = ("*.md", "*.yaml", "*.toml", "*.cff")
    places = [root, *(root / name for name in ("docs", "conf"))]
    paths = {p for kind in kinds for p in places[0].glob(kind)}
    paths |= {p for kind in kinds for place in places[1:] for p in place.rglob(kind)}
    return sum(len(line) > limit for p in paths for line in p.read_text().splitlines())


def main(root: Path) -> None:
    """Print the measures of a checkout."""
    for folder in FOLDERS:
        own = [s for s in sources(root) if s.name.split(".")[0] == folder]
        files = [s for s in own if s.path.name != "__init__.py"]
        rooms = {source.room for source in own}
        print(
            f"{folder}: {len(files)} files on {levels(root, folder)} import levels, "
            f"{len(rooms)} rooms on {room_levels(root, folder) or 'no'} levels"
        )
    sizes: dict[str, int] = {}
    for source in sources(root):
        sizes[source.room] = sizes.get(source.room, 0) + (source.path.name != "__init__.py")
    largest = max(sizes, key=lambda room: sizes[room])
    print(f"rooms: {len(sizes)}, the largest is {largest} with {sizes[largest]} files")
    print(f"circles of rooms: {room_circles(root)}")
    print(f"two-way pairs of rooms: {two_way_pairs(root)}")
    lines = bodies(root)
    ninetieth = statistics.quantiles(lines, n=10)[8]
    print(f"bodies: median {statistics.median(lines)}, 90th {ninetieth:.0f}, longest {max(lines)}")
    every, without = array_functions(root)
    print(f"public functions with arrays: {len(every)}, without a shape: {len(without)}")
    print(f"public functions that raise and do not say so: {len(raises_untold(root))}")
    print(f"lines of text over 120: {long_lines(root)}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2]).resolve())
