"""Names made to pass for markup, formulas or commands are text in every file of a report."""

from __future__ import annotations

import csv
import dataclasses
import html.parser
import io
import json

import pytest
import yaml
from rich.console import Console

from helpers import browser, run_folders
from userdp.analysis.comparison import ranking
from userdp.analysis.report import command
from userdp.analysis.report.figures import figure
from userdp.analysis.report.page import inline_svg
from userdp.server.statement import model_card
from userdp.sim.common import plain_text

pytestmark = pytest.mark.slow  # whole runs


class Parsed(html.parser.HTMLParser):
    """Tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def values(self, name: str) -> list[str]:
        return [attrs[name] for _, attrs in self.tags if name in attrs]


NAMES = (
    "<script>document.title='ran'</script>",
    "\"'><img src=x onerror=\"document.title='ran'\">",
    "]]><svg onload=\"document.title='ran'\"/>",
    "javascript:document.title='ran'",
    "`a` | **b** [c](javascript:d)",
    "a\n---\nepsilon: 0",
    "x$\\frac{$y",
    "../../escaped",
    '=HYPERLINK("http://x")',
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\x1b[31mred",
)

PAGE = (NAMES[1], " ".join(NAMES))  # a page is slow to draw


def named(folder, name):
    """A run whose files, edited by hand, give strategy, selection and data this name."""
    run_folders.write(folder, selection=name, data__path=name, model__path=name)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["strategy"]["name"] = name
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    stated = json.loads((folder / "privacy_statement.json").read_text())
    stated["strategy"] = name
    (folder / "privacy_statement.json").write_text(json.dumps(stated))


@pytest.fixture(scope="module")
def written(tmp_path_factory, composed_once):
    folder = tmp_path_factory.mktemp("hostile")
    for number, name in enumerate(PAGE):
        named(folder / f"h{number}", name)
    for number, name in enumerate(("=1+1", "+2", "@x", "<b>run")):
        run_folders.write(folder / name, strategy="user_wise", seed=number)
    return command.write(folder, folder / "report")


@pytest.fixture(scope="module")
def plain(tmp_path_factory, composed_once):
    """The same number of runs with names of letters."""
    folder = tmp_path_factory.mktemp("plain")
    for number in range(len(PAGE)):
        name = f"strategy_{number}"
        named(folder / f"h{number}", name)
    for number in range(4):
        run_folders.write(folder / f"r{number}", strategy="user_wise", seed=number)
    return command.write(folder, folder / "report")


def shapes(path):
    """Elements with the names of their attributes, as an HTML parser sees them."""
    return {(tag, tuple(sorted(attrs))) for tag, attrs in Parsed(path.read_text()).tags}


def test_no_name_adds_an_element_or_an_attribute(written, plain):
    assert shapes(written) <= shapes(plain)
    tags = [tag for tag, _ in Parsed(written.read_text()).tags]
    assert tags.count("script") == tags.count("style") == 1
    assert not [value for value in Parsed(written.read_text()).values("href") if ":" in value]


def test_ids_are_unique_and_name_no_other_file(written):
    parsed = Parsed(written.read_text())
    ids = parsed.values("id")
    assert len(ids) == len(set(ids))
    assert all(not set(" \"'<>&") & set(one) for one in ids)
    inside = {path.resolve() for path in (written.parent / "figures").iterdir()}
    assert all(path.parent == (written.parent / "figures").resolve() for path in inside)
    assert not list(written.parent.parent.parent.glob("escaped*"))


@pytest.mark.parametrize("name", NAMES)
def test_a_plot_is_named_and_drawn_whatever_the_strategy_is_called(name, tmp_path):
    drawn = figure.Plot(
        name=plain_text.identifier(f"epsilon_rounds_{name}"),
        title=name, note=name, alt=name, columns=("a", name), rows=[(name, 1.5)],
        draw=lambda ax: (ax.plot([1, 2], [1, 2], label=name), ax.set_xlabel(name)),
    )  # fmt: skip
    text = figure.save(drawn, tmp_path / "figures")
    inline = inline_svg.svg(text, name=drawn.name, alt=drawn.alt)
    tags = {tag for tag, _ in Parsed(inline).tags}
    assert tags <= {"svg", "g", "path", "defs", "use", "text", "clippath", "rect", "tspan"}
    assert all(set(one) <= set("-_.") | {c for c in one if c.isalnum()} for one in
               Parsed(inline).values("id"))  # fmt: skip
    assert [path.parent for path in tmp_path.rglob("*.svg")] == [tmp_path / "figures"]
    with pytest.raises(ValueError, match="expected letters"):
        dataclasses.replace(drawn, name=f"a {name}")


def test_cells_are_no_formulas_and_numbers_stay_numbers(written):
    for path in [written.parent / "runs.csv", *written.parent.glob("figures/*.csv")]:
        for row in csv.reader(io.StringIO(path.read_text())):
            for cell in row:
                numeric = cell.lstrip("+-").replace(".", "").replace("e", "").replace("-", "")
                assert not cell.startswith(tuple("=+-@\t")) or numeric.isdigit(), (path, cell)
    rows = list(csv.DictReader((written.parent / "runs.csv").open(newline="")))
    assert {row["run"] for row in rows} >= {"'=1+1", "'@x"}
    assert all(float(row["epsilon"]) > 0 for row in rows)
    assert plain_text.cell("-1e-5") == "-1e-5"
    assert plain_text.cell(-3) == -3


@pytest.mark.skipif(browser.path() is None, reason="no Chromium on this machine")
def test_no_name_runs_as_script(written, tmp_path):
    tab = browser.Browser(tmp_path)
    try:
        tab.open(written, width=1280)
        assert tab.run("document.title") != "ran"
        assert tab.messages == []
        assert not [one for one in tab.requests if not one.startswith("file:")]
    finally:
        tab.close()


def test_a_card_holds_hostile_names_as_text():
    stated = run_folders.privacy_statement(strategy="user_wise", epsilon=3.0, k=4, rounds=4)
    for name in NAMES:
        text = model_card.text(stated, base_model=name, classes=[name, "<b>&|x"])
        front = yaml.safe_load(text.split("---\n")[1])
        assert front["base_model"] == name
        assert set(front) == {"base_model", "library_name", "pipeline_tag", "tags"}
        below = text.split("```")[-1]
        assert "<b>" not in below
        assert "<script" not in below
        hostile = {**stated, "ledger_hash": name}
        for line in model_card.text(hostile, base_model="b").splitlines():
            if line.startswith("| ledger_hash |"):
                assert line.replace("\\|", "").count("|") == 3
                assert "<" not in line


def test_a_table_of_a_comparison_keeps_its_columns():
    cells = [
        ranking.Cell(
            strategy=name, selection="a|b", epsilon=1.0, gradients=None, perplexities=(2.0, 3.0)
        )
        for name in NAMES
    ]
    lines = ranking.markdown(cells).splitlines()
    assert len(lines) == len(NAMES) + 2
    assert {line.replace("\\|", "").count("|") for line in lines} == {5}


def test_a_terminal_obeys_no_name():
    for name in NAMES:
        assert "\x1b" not in plain_text.printable(name)
        assert "\n" not in plain_text.shown(name)
    console = Console(file=io.StringIO(), force_terminal=False)
    console.print(plain_text.printable("[red]x"), markup=False)
    assert console.file.getvalue() == "[red]x\n"
