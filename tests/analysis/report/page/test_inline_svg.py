"""SVG files as parts of a page."""

from __future__ import annotations

from userdp.analysis.report.page import inline_svg


def test_inlined_colours_are_variables_and_ids_are_the_figures_own():
    text = (
        '<?xml version="1.0"?><svg viewBox="0 0 1 1"><g id="a"/><use xlink:href="#a" '
        'style="fill: #0072b2; clip-path: url(#c)"/></svg>'
    )
    assert inline_svg.svg(text, name="x", alt='"<') == (
        '<svg viewBox="0 0 1 1" role="img" aria-label="&quot;&lt;"><g id="x-a"/>'
        '<use href="#x-a" style="fill: var(--blue); clip-path: url(#x-c)"/></svg>'
    )
