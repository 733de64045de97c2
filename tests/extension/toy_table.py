"""The extensions of the folder `toys`: their files, and how a run asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "toys"
SEARCH_PATH = f"hydra.searchpath=[file://{FOLDER / 'conf'}]"
ROUNDS, NODES = 3, 2
EVERYONE = ("privacy.users=25", "cohort=25")  # every user takes part in every round
REPEATABLE = ("privacy.reproducible=true", "optimizer=sgd")


@dataclass(frozen=True)
class Toy:
    """One extension.

    Args:
        files: its Python file and its YAML file, if it has one.
        key: configuration key whose value is the extension's dotted name.
        dotted: that name.
        overrides: of a run with the extension.
    """

    files: tuple[str, ...]
    key: str
    dotted: str
    overrides: tuple[str, ...]


TOYS = {
    "mechanism": Toy(
        files=("per_layer.py", "conf/strategy/per_layer.yaml"),
        key="strategy.name",
        dotted="toys.per_layer.PerLayer",
        overrides=("strategy=per_layer",),
    ),
    "data source": Toy(
        files=("sqlite.py", "conf/data/sqlite.yaml"),
        key="data.format",
        dotted="toys.sqlite.SOURCE",
        overrides=("data=sqlite", "data.path=mail.db"),
    ),
    "accountant": Toy(
        files=("zcdp.py",),
        key="privacy.accountant",
        dotted="toys.zcdp.ACCOUNTANT",
        overrides=("privacy.accountant=toys.zcdp.ACCOUNTANT", *EVERYONE),
    ),
    "selection rule": Toy(
        files=("most_distinct.py", "conf/selection/most_distinct.yaml"),
        key="selection.rule",
        dotted="toys.most_distinct.RULE",
        overrides=("selection=most_distinct",),
    ),
    "server optimiser": Toy(
        files=("lion.py", "conf/optimizer/lion.yaml"),
        key="optimizer.name",
        dotted="toys.lion.Lion",
        overrides=("optimizer=lion",),
    ),
    "runtime": Toy(
        files=("counting.py", "conf/runtime/counting.yaml"),
        key="runtime.kind",
        dotted="toys.counting.start",
        overrides=("runtime=counting", f"runtime.nodes={NODES}", *EVERYONE),
    ),
    "metric": Toy(
        files=("largest_coordinate.py", "conf/strategy/largest_coordinate.yaml"),
        key="strategy.name",
        dotted="toys.largest_coordinate.Reporting",
        overrides=("strategy=largest_coordinate",),
    ),
}
