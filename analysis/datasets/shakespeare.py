"""Makes shakespeare_roles: the speeches of 37 plays, a user is a role in one play.

    python -m userdp.analysis.datasets.shakespeare shakespeare_roles

The source is the Moby Shakespeare in HTML (public domain), a file ``full.html`` for each play. A
speech is a heading, ``<a name=speech1><b>ROLE</b></a>``, and the lines after it, each an anchor
that is named by act, scene and line. Everything else is left out: stage directions between lines
have no such anchor. Headings of several speakers at once are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

from userdp.analysis.datasets import download, holding_out

SOURCE = download.github(
    "TheMITTech/shakespeare", "6b82db852c7322dd33e95db347f0ddfc812c6409", "shakespeare.tar.gz"
)
# Of users and texts of the docs' results.
DIGEST = "fcde1a11741c452de2011c538e47996c8419d22d8bb8d691b2c4f663bc0a9607"
_LINE = re.compile(r"\d+(\.\d+)*")
_SPEECH = re.compile(r"speech\d+", re.IGNORECASE)
_TOGETHER = re.compile(r"(ALL|BOTH|ALL .*)")


class _Speeches(HTMLParser):
    """Collects (role, lines) of a play."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, list[str]]] = []
        self._inside: str | None = None  # heading or line, or neither
        self._text = ""

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        """Begin a heading or a line."""
        name = dict(attrs).get("name") or "" if tag == "a" else ""
        if _SPEECH.fullmatch(name) or _LINE.fullmatch(name):
            self._inside = "heading" if _SPEECH.fullmatch(name) else "line"
            self._text = ""

    def handle_endtag(self, tag: str) -> None:
        """End a heading or a line."""
        if tag != "a" or self._inside is None:
            return
        text = " ".join(self._text.split())
        if self._inside == "heading":
            self.found.append((text.upper(), []))
        elif self.found and text:
            self.found[-1][1].append(text)
        self._inside = None

    def handle_data(self, data: str) -> None:
        """Keep the text of a heading or a line."""
        self._text += data if self._inside else ""


def speeches(play: str, html: str) -> Iterator[dict[str, str]]:
    """The rows of one play, in its order.

    Args:
        play: its short name, the first half of a user's id.
    """
    parser = _Speeches()
    parser.feed(html)
    for role, lines in parser.found:
        if role and lines and not _TOGETHER.fullmatch(role):
            yield {"user_id": f"{play}:{role}", "text": "\n".join(lines)}


def plays(source: Path) -> Iterator[tuple[str, str]]:
    """Name and text of each play of an archive or a folder, in the order of the names."""
    files = {path.parent.name: html for path, html in download.files(source, "full.html")}
    yield from ((name, files[name].decode("latin-1")) for name in sorted(files))


def main(given: Sequence[str] | None = None) -> None:
    """Write ``data.jsonl`` into a folder.

    Raises:
        SourceError: the source holds no play.
    """
    options = download.arguments(__doc__ or "", given, "an archive or folder of the HTML files")
    source = options.source or download.fetched(SOURCE, options.output)
    rows = [row for play, html in plays(source) for row in speeches(play, html)]
    if not rows:
        raise download.SourceError(f"{source}: no full.html with a speech is in it.")
    download.write(options.output / "data.jsonl", holding_out.with_split(rows), DIGEST)


if __name__ == "__main__":
    download.run(main)
