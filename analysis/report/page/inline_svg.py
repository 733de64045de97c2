"""A saved SVG made part of a page: no prologue, ids of its own, colours that follow the screen."""

from __future__ import annotations

import re
from html import escape

from userdp.analysis.report.figures.style import VARIABLES

# Of the file, not of the drawing; its style would be the whole page's.
_PROLOGUE = r"<metadata>.*?</metadata>|<title>.*?</title>|<style[^>]*>.*?</style>"


def svg(text: str, *, name: str, alt: str) -> str:
    """Markup to put into HTML.

    Args:
        text: an SVG file as matplotlib writes it.
        name: unique in the page, of letters, digits, - and _; ids get it as a prefix.
        alt: the text alternative, put in escaped.
    """
    body = text[text.index("<svg") :]
    body = re.sub(_PROLOGUE, "", body, flags=re.DOTALL)
    body = _own_ids(body, name)
    for colour, variable in VARIABLES.items():
        body = re.sub(rf"(?<=: ){colour}\b", f"var({variable})", body)
    size = re.search(r'viewBox="[^"]*"', body)
    box = size[0] if size else ""
    head = f'<svg {box} role="img" aria-label="{escape(alt)}">'
    return head + body[body.index(">") + 1 :].strip()


def _own_ids(body: str, name: str) -> str:
    """Every id and every reference to one with the figure's name before it."""
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(xlink:)?href="#', f'href="#{name}-', body)
    return re.sub(r"url\(#", f"url(#{name}-", body)
