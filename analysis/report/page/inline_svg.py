"""Turns a saved SVG into markup of a page: no prologue, unique ids, colours as CSS variables."""

from __future__ import annotations

import re
from html import escape

from userdp.analysis.report.figures.style import VARIABLES

# Parts that belong to the file; a style element would apply to the whole page.
_PROLOGUE = r"<metadata>.*?</metadata>|<title>.*?</title>|<style[^>]*>.*?</style>"


def svg(text: str, *, name: str, alt: str) -> str:
    """Markup to embed in HTML.

    Args:
        text: an SVG file as matplotlib writes it.
        name: unique in the page, of letters, digits, - and _; it becomes the prefix of all ids.
        alt: the text alternative; it is escaped here.
    """
    body = text[text.index("<svg") :]
    body = re.sub(_PROLOGUE, "", body, flags=re.DOTALL)
    body = _prefixed_ids(body, name)
    for colour, variable in VARIABLES.items():
        body = re.sub(rf"(?<=: ){colour}\b", f"var({variable})", body)
    view_box = re.search(r'viewBox="[^"]*"', body)
    size = view_box[0] if view_box else ""
    head = f'<svg {size} role="img" aria-label="{escape(alt)}">'
    return head + body[body.index(">") + 1 :].strip()


def _prefixed_ids(body: str, name: str) -> str:
    """Put the figure's name before every id and every reference to an id."""
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(xlink:)?href="#', f'href="#{name}-', body)
    return re.sub(r"url\(#", f"url(#{name}-", body)
