"""The page: self-contained, fetches nothing, and escapes all values of the runs."""

from __future__ import annotations

import html.parser
import json
import re

import pytest

from helpers import run_folders
from userdp.analysis.report import command
from userdp.sim.run_folder import composed_epsilon, config_diff, reader

HOSTILE = "</script><b>&\"'</style><img src=x onerror=alert(1)>"


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
def written(tmp_path_factory, composed_once):
    folder = run_folders.sweep(tmp_path_factory.mktemp("hostile"))
    run_folders.write(folder / "odd", seed=7, data__text=HOSTILE, selection=HOSTILE)
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
    references = {v[1:] for n in ("href", "xlink:href") for v in parsed.values(n) if v[0] == "#"}
    references |= set(re.findall(r"url\(#([^)]*)\)", written.read_text()))
    assert references <= set(ids)


def test_hostile_values_are_text_and_nothing_else(written, parsed):
    assert HOSTILE in "".join(parsed.texts)
    names = [tag for tag, _ in parsed.tags]
    assert not {"b", "img"} & set(names)
    assert names.count("script") == names.count("style") == 1
    assert not [name for _, attrs in parsed.tags for name in attrs if name.startswith("on")]


def test_the_page_has_a_title_and_figures_have_text_alternatives(parsed):
    drawings = [attrs for tag, attrs in parsed.tags if tag == "svg"]
    assert len(drawings) >= 5
    assert all(len(attrs["aria-label"]) > 20 and attrs["role"] == "img" for attrs in drawings)
    assert "title" in {tag for tag, _ in parsed.tags}


def test_the_first_line_is_what_the_whole_sweep_spent(parsed, composed):
    claims = [i for i, (_, attrs) in enumerate(parsed.tags) if attrs.get("class") == "claim"]
    assert len(claims) == 1
    assert composed in parsed.texts


def test_a_sweep_whose_composed_epsilon_is_not_known_claims_nothing(tmp_path, monkeypatch):
    def damaged(folder):
        raise ValueError("ledger.jsonl, line 3: broken")

    monkeypatch.setattr(composed_epsilon, "of_sweep", damaged)
    run_folders.write(tmp_path / "a")
    run_folders.write(tmp_path / "b", seed=2)
    text = "".join(Parsed(command.write(tmp_path, tmp_path / "out").read_text()).texts)
    assert "nothing is claimed: ledger.jsonl, line 3: broken" in text


def test_the_first_line_of_a_run_is_its_statements_claim(tmp_path):
    folder = run_folders.write(tmp_path / "run", epsilon=3.0)
    texts = Parsed(command.write(folder, tmp_path / "out").read_text()).texts
    claim = next(
        t for t in texts if t.startswith("This adapter is (epsilon = 2.997, delta = 1e-05)")
    )
    assert "at user level" in claim


@pytest.mark.parametrize("complete", [True, False])
def test_a_run_that_claims_nothing_says_so_first(tmp_path, complete):
    settings = {"strategy": "non_private"} if complete else {"complete": False}
    folder = run_folders.write(tmp_path / "run", **settings)
    text = "".join(Parsed(command.write(folder, tmp_path / "out").read_text()).texts)
    assert ("NOT PRIVATE" if complete else "No claim yet") in text


def test_a_section_without_data_is_one_line_with_its_reason(parsed):
    text = "".join(parsed.texts)
    assert re.search(r"Halting rates left out: no run used strategy=concentrated", text)
    assert "halting" not in parsed.values("id")


def test_figures_from_private_data_are_marked_on_the_page_and_in_its_table(tmp_path):
    rows = [{"round": n, "canary": 0, "rank": 1, "exposure_bits": 9.0} for n in (0, 4)]
    settings = {"tables": {"exposure.csv": rows}, "data__canary_references": 511}
    folder = run_folders.write(tmp_path / "run", **settings)
    page = command.write(folder, tmp_path / "out")
    assert re.search(r"Canary exposure[^<]*<span class=\"badge\">simulation_only", page.read_text())
    header = (page.parent / "figures" / "exposure.csv").read_text().splitlines()[0]
    assert all(name.startswith("simulation_only/") for name in header.split(","))


def test_only_keys_that_differ_are_differences(tmp_path):
    runs = reader.read(run_folders.sweep(tmp_path / "sweep"))
    differences = {d.key: d.values for d in config_diff.differing(runs)}
    assert set(differences) == {"privacy.epsilon", "seed", "strategy.clip_norm", "strategy.name",
                                "strategy.records_per_user"}  # fmt: skip
    assert differences["strategy.records_per_user"]["10"] == ("k/10",)
    assert config_diff.common(runs)["optimizer.lr"] == "0.01"


def sampled(folder, *texts):
    """A run folder with these samples, each a prompt, a base's and an adapter's text."""
    rows = [dict(zip(("prompt", "base", "adapter"), text, strict=True)) for text in texts]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("private", [True, False])
def test_samples_stand_beside_each_other_as_text_and_nothing_else(tmp_path, private):
    folder = run_folders.write(tmp_path / "run", strategy="user_wise" if private else "non_private")
    sampled(folder, (HOSTILE, "base <b>", f"adapter {HOSTILE}"), ("", "x", "a\x1b[31mred"))
    text = command.write(folder, tmp_path / "out").read_text()
    page = Parsed(text)
    assert "samples" in page.values("id")
    told = "".join(page.texts)
    for one in (HOSTILE, "base <b>", f"adapter {HOSTILE}", "(the beginning of a text)"):
        assert one in told
    assert not {"b", "img"} & {tag for tag, _ in page.tags}
    assert "\x1b" not in text
    assert ("NOT PRIVATE: " in told[told.index("base model writes") :]) != private


@pytest.mark.parametrize(
    "content", ["{", '{"prompt": 1, "base": 2, "adapter": 3}', '["a"]', '{"a": 1}']
)
def test_a_file_that_no_run_writes_shows_no_samples(tmp_path, content):
    folder = run_folders.write(tmp_path / "run")
    (folder / "samples.jsonl").write_text(content + "\n")
    page = Parsed(command.write(folder, tmp_path / "out").read_text())
    assert "samples" not in page.values("id")
    assert "no complete run has samples" in "".join(page.texts)
