"""Token ids of texts of any length in bounded memory: a long text is tokenized in pieces.

A tokenizer keeps some hundred bytes for each token of a text, and a text of 100 MB took 14 GB. A
text of more than `LONG` characters is cut into pieces, and their ids are joined. A piece ends
where a word ends before a single space, and the ids are those of the whole text:

- No entry of the vocabulary goes on over such a place, so no merge does (byte pair encoding joins
  neighbours to an entry of the vocabulary, whatever the order of its merges), and no piece of a
  unigram or word model does.
- The tokenizer itself gives the same ids for the characters around the place, whole and cut.
- No added token is near.

The rest is that the tokenizer splits a text into words by what is near, as all usual ones do. If
there is no such place within half a piece, as in a text without spaces, the text is cut where the
tokenizer gives the same ids for what is around: at that one place its ids may be others.
"""

from __future__ import annotations

import itertools
import re
from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

LONG = 1 << 20  # characters of a text from which it is tokenized in pieces
_PIECE, _AT_ONCE = 1 << 17, 4  # characters of a piece, and pieces in one call of the tokenizer
_AROUND = 128  # characters on either side of a cut that are tokenized whole and cut
_TRIED = 200  # ends of words that are tried for a cut
_OVER_SPACE = re.compile(r"([^▁Ġ ])[▁Ġ ]")  # a character before a space inside a token


class Piece(NamedTuple):
    """A piece of a text: ``text[start:end]``.

    ``skipped`` characters before it belong to its first token: tokenizers that put a space before
    every text put one before a piece too, and it stands for the one that is there.
    """

    start: int
    end: int
    skipped: int


class LongTexts:
    """Tokenizes long texts with a tokenizer of transformers.

    Args:
        options: of all calls; special tokens are never added.
    """

    def __init__(self, tokenizer: Any, **options: Any) -> None:
        self._tokenizer = tokenizer
        self._options = {"add_special_tokens": False, "verbose": False, **options}
        kept = [
            str(token)
            for token in tokenizer.added_tokens_decoder.values()
            if not (token.special and options.get("split_special_tokens"))
        ]
        self._added = [spelled for token in kept for spelled in {token, token.strip()} if spelled]
        self._reach = max(map(len, self._added), default=0) + 1
        vocabulary = "\n".join(tokenizer.get_vocab())
        self._over_space = {match[1].lower() for match in _OVER_SPACE.finditer(vocabulary)} - {"\n"}

    def ids(self, text: str) -> array[int]:
        """The ids of the text, without special tokens: (tokens,) int32."""
        result = array("i")
        for _, encoded in self.encoded(text):
            result.frombytes(np.asarray(encoded["input_ids"], np.int32).tobytes())
        return result

    def encoded(self, text: str, **options: Any) -> Iterator[tuple[Piece, dict[str, Any]]]:
        """Each piece of the text and what the tokenizer returns for it.

        Args:
            options: of the call, for example ``return_offsets_mapping=True``.
        """
        pieces = self.pieces(text)
        while some := list(itertools.islice(pieces, _AT_ONCE)):
            texts = [text[piece.start : piece.end] for piece in some]
            encoded = self._tokenizer(
                texts, return_attention_mask=False, **self._options, **options
            )
            for number, piece in enumerate(some):
                yield piece, {name: values[number] for name, values in encoded.items()}

    def pieces(self, text: str) -> Iterator[Piece]:
        """The pieces of the text, in order; nothing but skipped spaces is between them."""
        start = skipped = 0
        while len(text) - start > _PIECE:
            end, skip = self._cut(text, start + _PIECE)
            yield Piece(start, end, skipped)
            start, skipped = end + skip, skip
        yield Piece(start, len(text), skipped)

    def head(self, text: str, tokens: int, *, side: str = "right") -> str:
        """A shorter text that begins (or, truncated on the left, ends) with the same tokens.

        Args:
            tokens: number of tokens that have to be the same.
            side: on which the tokenizer truncates.
        """
        size = LONG
        while size < len(text):
            if side == "left":
                end, skip = self._cut(text, len(text) - size)
                shorter = text[end + skip :]
            else:
                shorter = text[: self._cut(text, size)[0]]
            if len(self.ids(shorter)) > tokens:
                return shorter
            size *= 2
        return text

    def _cut(self, text: str, latest: int) -> tuple[int, int]:
        """(end of a piece, characters to skip after it): where a word ends, or near ``latest``."""
        place, first = latest, latest - _PIECE // 2
        for _ in range(_TRIED):
            place = text.rfind(" ", first, place)
            if place < 0:
                break
            if self._ends_word(text, place):
                for skip in (0, 1):
                    if self._same(text, place, skip):
                        return place, skip
        anywhere = range(latest, latest - _TRIED, -1)
        return next((place for place in anywhere if self._same(text, place, 0)), latest), 0

    def _ends_word(self, text: str, place: int) -> bool:
        before, after = text[place - 1], text[place + 1 : place + 2]
        if before.isspace() or not after or after.isspace():
            return False
        if self._over_space and (not before.isascii() or before.lower() in self._over_space):
            return False
        near = text[max(0, place - self._reach) : place + self._reach]
        return not any(token in near for token in self._added)

    def _same(self, text: str, place: int, skip: int) -> bool:
        """Whether the characters around a place have the same ids whole and cut."""
        start, end = max(0, place - _AROUND), place + _AROUND
        parts = [text[start:end], text[start:place], text[place + skip : end]]
        whole, left, right = self._tokenizer(parts, **self._options)["input_ids"]
        return bool(whole == left + right)
