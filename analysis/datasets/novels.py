"""Makes public_novels: 26 English novels of 1837 to 1923, for pre-training the small base model.

    python -m userdp.analysis.datasets.novels public_novels

The source is the corpus 100_english_novels; the novels are in the public domain in the USA. A line
of ``train.txt`` and ``heldout.txt`` is a paragraph. Lines of books that are wrapped at a width are
joined: a line of less than 80 % of that width ends a paragraph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from userdp.analysis.datasets import download
from userdp.sim.common import durable_file

SOURCE = download.github(
    "computationalstylistics/100_english_novels",
    "143e601875d70e195f2cc5ebd8b034609271194d",
    "100_english_novels.tar.gz",
)
HELD_OUT = ("Kipling_Light_1891", "Morris_Water_1897", "Trollope_Angel_1881")
TRAIN = (
    *("Bennet_Helen_1910", "Blackmore_Erema_1877", "Braddon_Audley_1862", "Braddon_Phantom_1883"),
    *("Cbronte_Jane_1847", "Cbronte_Villette_1853", "Chesterton_Innocence_1911"),
    *("Chesterton_Thursday_1908", "Conrad_Almayer_1895", "Corelli_Innocent_1914"),
    *("Doyle_Lost_1912", "Eliot_Daniel_1876", "Ford_Girl_1907", "Ford_Soldier_1915"),
    *("Galsworthy_Man_1906", "Gaskell_Lovers_1863", "Gissing_Warburton_1903", "Gissing_Women_1893"),
    *("Lawrence_Women_1920", "Lee_Brown_1884", "Stevenson_Arrow_1888", "Thackeray_Pendennis_1850"),
    "Trollope_Warden_1855",
)
# Of the files that the model of the docs' results was trained and scored on.
SHA256 = {
    "train.txt": "6970515f07372b5b908163125d196ddd9565392d04ae106cce1896873dc1cd76",
    "heldout.txt": "b7b8e824003698f27fc831976fda21cee8ba6c05180a45846945b6d026620006",
}
_WRAPPED = 120  # characters: the lines of a book that is not wrapped are longer
_ENDS = 0.8  # of the width


def paragraphs(book: str) -> list[str]:
    """The paragraphs of a book, spaces collapsed, without blank lines."""
    lines = [" ".join(line.split()) for line in book.removeprefix("\ufeff").splitlines()]
    lines = [line for line in lines if line]
    width = float(np.quantile([len(line) for line in lines], 0.95)) if lines else 0.0
    if width > _WRAPPED:
        return lines
    joined: list[str] = []
    ended = True
    for line in lines:
        joined.append(line) if ended else joined.append(f"{joined.pop()} {line}")
        ended = len(line) < _ENDS * width
    return joined


def text(books: Mapping[str, str], names: Sequence[str]) -> str:
    """The paragraphs of the named books, one a line, in the order of the names' hashes.

    Raises:
        SourceError: a book is missing.
    """
    ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    missing = [name for name in ordered if name not in books]
    if missing:
        raise download.SourceError(f"{missing[0]}.txt is not in the source.")
    return "".join(f"{line}\n" for name in ordered for line in paragraphs(books[name]))


def _books(source: Path) -> dict[str, str]:
    wanted = {*TRAIN, *HELD_OUT}
    return {
        path.stem: content.decode("utf-8")
        for path, content in download.files(source, "*.txt")
        if path.stem in wanted
    }


def main(given: Sequence[str] | None = None) -> None:
    """Write ``train.txt`` and ``heldout.txt`` into a folder.

    Raises:
        SourceError: a book is missing.
    """
    options = download.arguments(__doc__ or "", given, "an archive or folder of the books")
    source = options.source or download.fetched(SOURCE, options.output)
    books = _books(source)
    options.output.mkdir(parents=True, exist_ok=True)
    for name, titles in (("train.txt", TRAIN), ("heldout.txt", HELD_OUT)):
        content = text(books, titles).encode()
        durable_file.replace(options.output / name, content)
        same = hashlib.sha256(content).hexdigest() == SHA256[name]
        print(f"{options.output / name}: {'as' if same else 'NOT as'} for the docs' results")


if __name__ == "__main__":
    download.run(main)
