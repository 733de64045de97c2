"""The page in a headless browser: no errors, no requests, sorting, filtering, and its width."""

from __future__ import annotations

import pytest

from helpers import browser, run_folders
from userdp.analysis.report import command

pytestmark = pytest.mark.skipif(browser.path() is None, reason="no Chromium on this machine")
COLUMN = """[...document.querySelectorAll('#table tbody tr:not([hidden])')].map(
    row => row.cells[[...document.querySelectorAll('#table th')].findIndex(
        heading => heading.textContent === %r)].dataset.value)"""
CLICK = "[...document.querySelectorAll('#table th button')].find(b => b.textContent === %r).%s()"
WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
FILTER = """(() => { const box = document.getElementById('filter'); box.value = %r;
    box.dispatchEvent(new Event('input')); return document.getElementById('count').textContent })()
    """


@pytest.fixture(scope="module")
def page(tmp_path_factory, composed_once):
    folder = run_folders.sweep(tmp_path_factory.mktemp("sweep"))
    long_value = "a/rather/long/path/without/any/space/" * 4
    run_folders.write(folder / "long", perplexity=1234.5, seed=7, data__text=long_value)
    run_folders.write(folder / "close", perplexity=76.25, seed=8)  # below 76.5 as a number only
    run_folders.write(folder / "closer", perplexity=76.5, seed=9)
    return command.write(folder, folder / "report")


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    opened = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_the_page_fits_the_screen_without_errors_or_requests(tab, page, width, dark):
    tab.open(page, width=width, dark=dark)
    tab.run("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert tab.run("innerWidth") == width
    content, screen = tab.run(WIDTHS)
    assert content == screen
    assert tab.messages == []
    assert all(address.startswith("file:") for address in tab.requests)


def test_text_of_figures_has_contrast_in_both_colour_schemes(tab, page):
    """Contrast of a figure's label with the page, by the formula of WCAG 2."""
    for dark in (False, True):
        tab.open(page, width=1280, dark=dark)
        ink = tab.run("getComputedStyle(document.querySelector('figure svg text')).fill")
        paper = tab.run("getComputedStyle(document.body).backgroundColor")
        light, deep = sorted((luminance(ink), luminance(paper)), reverse=True)
        assert (light + 0.05) / (deep + 0.05) > 7


def luminance(colour: str) -> float:
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_a_heading_sorts_by_number_and_back(tab, page):
    tab.open(page, width=1280)
    before = tab.run(COLUMN % "Perplexity")
    known = sorted(float(value) for value in before if value)
    assert known[0] == 60.0
    assert known[-1] == 1234.5  # as text it would come first
    tab.run(CLICK % ("Perplexity", "click"))
    assert tab.run(COLUMN % "Perplexity") == [*map(repr, known), ""]  # the unfinished run
    tab.run(CLICK % ("Perplexity", "click"))
    assert tab.run(COLUMN % "Perplexity") == [*map(repr, reversed(known)), ""]
    assert tab.run("document.querySelectorAll('[aria-sort=descending]').length") == 1


def test_the_keyboard_sorts_too(tab, page):
    tab.open(page, width=1280)
    tab.run(CLICK % ("k", "focus"))
    tab.press("Enter", 13)
    assert tab.run(COLUMN % "k")[-1] == "10"
    outline = tab.run("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_the_filter_keeps_rows_that_hold_every_word(tab, page):
    tab.open(page, width=1280)
    assert tab.run(FILTER % "group_privacy  8-2") == "1 of 18"
    assert tab.run(COLUMN % "Run") == ["main/group_privacy-8-2"]
    assert tab.run(FILTER % "nothing like it") == "0 of 18"
    assert tab.run(FILTER % "") == "18 of 18"
    assert len(tab.run(COLUMN % "Run")) == 18


def test_the_wide_table_scrolls_in_its_box_on_a_phone(tab, page):
    tab.open(page, width=375)
    inner, outer = tab.run(
        "(() => { const box = document.querySelector('.scroll');"
        " return [box.scrollWidth, box.clientWidth] })()"
    )
    assert inner > outer
    assert tab.run("document.querySelector('.scroll').tabIndex") == 0
