"""The page of a report: it holds everything, fetches nothing, and escapes what it is given."""

from __future__ import annotations

import html.parser
import re
import sys
import types

import pytest

from helpers import run_folders
from userdp.analysis.report import command
from userdp.analysis.report.figures.figure import figure
from userdp.analysis.report.page import inline_svg
from userdp.sim import cli
from userdp.sim.run_folder import reader

HOSTILE = "</script><b>&\"'</style><img src=x onerror=alert(1)>"
SPENT = "All runs together have epsilon 31.4 <at most>."


@pytest.fixture(autouse=True)
def spending(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sweep spent is `userdp.sim.run_folder.composed_epsilon`'s to say; here only that the page says it."""
    module = types.ModuleType("userdp.sim.run_folder.composed_epsilon")
    module.of_sweep = lambda folder: types.SimpleNamespace(sentences=[SPENT, "Second."])
    monkeypatch.setitem(sys.modules, "userdp.sim.run_folder.composed_epsilon", module)


class Parsed(html.parser.HTMLParser):
    """Tags with their attributes, and the text outside of style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] not in ("style", "script"):
            self.texts.append(data)

    def values(self, name: str) -> list[str]:
        return [attrs[name] for _, attrs in self.tags if name in attrs]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = run_folders.sweep(tmp_path_factory.mktemp("hostile"))
    run_folders.write(folder / "odd", seed=7, data__text=HOSTILE, selection=HOSTILE)
    with pytest.MonkeyPatch.context() as patch:
        spending.__wrapped__(patch)
        return command.write(folder, folder / "report")


@pytest.fixture(scope="module")
def parsed(written):
    return Parsed(written.read_text())


def test_the_page_fetches_nothing(written, parsed):
    text = written.read_text()
    for name in ("src", "href", "xlink:href", "action", "data"):
        for value in parsed.values(name):
            assert not re.match(r"[a-z]*:|//", value, re.IGNORECASE), value
    assert not re.search(r"url\((?!#)|@import|<link|<iframe|<object", text)


def test_every_relative_link_leads_to_a_file_beside_the_page(written, parsed):
    files = [value for value in parsed.values("href") if not value.startswith("#")]
    assert len(files) > 10
    assert all((written.parent / value).is_file() for value in files)


def test_every_reference_inside_the_page_has_one_target(written, parsed):
    ids = parsed.values("id")
    assert len(ids) == len(set(ids))
    asked = {v[1:] for n in ("href", "xlink:href") for v in parsed.values(n) if v[0] == "#"}
    asked |= set(re.findall(r"url\(#([^)]*)\)", written.read_text()))
    assert asked <= set(ids)


def test_hostile_values_are_text_and_nothing_else(written, parsed):
    assert HOSTILE in "".join(parsed.texts)
    names = [tag for tag, _ in parsed.tags]
    assert not {"b", "img"} & set(names)
    assert names.count("script") == names.count("style") == 1
    assert not [name for _, attrs in parsed.tags for name in attrs if name.startswith("on")]


def test_figures_and_page_have_their_names_and_alternatives(parsed):
    drawings = [attrs for tag, attrs in parsed.tags if tag == "svg"]
    assert len(drawings) >= 5
    assert all(len(attrs["aria-label"]) > 20 and attrs["role"] == "img" for attrs in drawings)
    assert "title" in {tag for tag, _ in parsed.tags}


def test_the_first_line_is_what_the_whole_sweep_spent(parsed):
    claims = [i for i, (_, attrs) in enumerate(parsed.tags) if attrs.get("class") == "claim"]
    assert len(claims) == 1
    assert SPENT in parsed.texts


def test_a_sweep_whose_spending_is_not_known_claims_nothing(tmp_path, monkeypatch):
    def damaged(folder):
        raise ValueError("ledger.jsonl, line 3: broken")

    monkeypatch.setattr(sys.modules["userdp.sim.run_folder.composed_epsilon"], "of_sweep", damaged)
    run_folders.write(tmp_path / "a")
    run_folders.write(tmp_path / "b", seed=2)
    text = "".join(Parsed(command.write(tmp_path, tmp_path / "out").read_text()).texts)
    assert "nothing is claimed: ledger.jsonl, line 3: broken" in text


def test_the_first_line_of_a_run_is_its_statements_claim(tmp_path):
    folder = run_folders.write(tmp_path / "run", epsilon=3.0)
    text = Parsed(command.write(folder, tmp_path / "out").read_text()).texts
    told = next(t for t in text if t.startswith("This adapter is (epsilon = 2.997, delta = 1e-05)"))
    assert "at user level" in told


@pytest.mark.parametrize("complete", [True, False])
def test_a_run_that_claims_nothing_says_so_first(tmp_path, complete):
    own = {"strategy": "non_private"} if complete else {"complete": False}
    folder = run_folders.write(tmp_path / "run", **own)
    text = "".join(Parsed(command.write(folder, tmp_path / "out").read_text()).texts)
    assert ("NOT PRIVATE" if complete else "No claim yet") in text


def test_a_section_without_data_is_one_line_with_its_reason(parsed):
    text = "".join(parsed.texts)
    assert re.search(r"Halting rates left out: no run used strategy=concentrated", text)
    assert "halting" not in parsed.values("id")


def test_what_sees_private_data_is_marked_on_the_page_and_in_its_table(tmp_path):
    rows = [{"round": n, "canary": 0, "rank": 1, "exposure_bits": 9.0} for n in (0, 4)]
    own = {"tables": {"exposure.csv": rows}, "data__canary_references": 511}
    folder = run_folders.write(tmp_path / "run", **own)
    page = command.write(folder, tmp_path / "out")
    assert re.search(r"Canary exposure[^<]*<span class=\"badge\">simulation_only", page.read_text())
    header = (page.parent / "figures" / "exposure.csv").read_text().splitlines()[0]
    assert all(name.startswith("simulation_only/") for name in header.split(","))


def test_inlined_colours_are_variables_and_ids_are_the_figures_own():
    drawn = (
        '<?xml version="1.0"?><svg viewBox="0 0 1 1"><g id="a"/><use xlink:href="#a" '
        'style="fill: #0072b2; clip-path: url(#c)"/></svg>'
    )
    assert inline_svg.svg(drawn, name="x", alt='"<') == (
        '<svg viewBox="0 0 1 1" role="img" aria-label="&quot;&lt;"><g id="x-a"/>'
        '<use href="#x-a" style="fill: var(--blue); clip-path: url(#x-c)"/></svg>'
    )


def test_the_verb_writes_where_it_is_asked_to(tmp_path, capsys):
    folder = run_folders.write(tmp_path / "run")
    assert cli.main(["report", str(folder)]) == 0
    assert (folder / "report" / "report.html").is_file()
    assert str(folder / "report" / "report.html") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "name one folder"),
        (["a", "b"], "name one folder"),
        (["nowhere"], "no such folder"),
        (["nowhere", "output="], "name one folder"),
        (["."], "no run there"),
        (["--json"], "no such option"),
    ],
)
def test_a_wrong_argument_is_one_line(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_a_table_without_its_column_is_named(tmp_path, capsys):
    tables = {"exposure.csv": [{"round": 1, "canary": 0}]}
    folder = run_folders.write(tmp_path / "run", tables=tables)
    assert cli.main(["report", str(folder)]) == 2
    assert "no column exposure_bits" in capsys.readouterr().err


def test_axis_labels_lie_within_their_figure(tmp_path):
    """Of perplexity, of the long names of shares and of accuracy."""
    run_folders.sweep(tmp_path / "sweep")
    for own in ({"cohort": 100}, {"cohort": 100, "strategy": "non_private"}):
        run_folders.write(tmp_path / f"share-{len(own)}", **own)
        scored = {"heldout_accuracy": 0.9, "heldout_accuracy_before": 0.5}
        place = tmp_path / f"classes-{len(own)}"
        run_folders.write(place, data__format="classes", summary=scored, **own)
    plots = [plot for section in command.sections(reader.read(tmp_path)) for plot in section.plots]
    assert len({plot.name.split("_")[0] for plot in plots} & {"gain", "privacy", "by"}) == 3
    for plot in plots:
        drawn = figure(plot)
        [axes] = drawn.axes
        drawn.draw_without_rendering()
        for label in (axes.xaxis.label, axes.yaxis.label):
            corners = label.get_window_extent().get_points()
            assert all(drawn.bbox.padded(1).contains(x, y) for x, y in corners), plot.name
