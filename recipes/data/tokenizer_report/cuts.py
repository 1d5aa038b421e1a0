"""Units of a text that should stay whole (words, grapheme clusters, conjuncts), and those that tokens cut."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from recipes.data.tokenizer.base import Span

if TYPE_CHECKING:
    import regex

_CONSONANT = "[\u0915-\u0939\u0958-\u095f\u0978-\u097f]\u093c?"
_VIRAMA, _ZWJ = "\u094d", "\u200d"
_PATTERNS = {
    # Letters with their marks; joiners count only inside words.
    "words": r"[\p{L}\p{M}]+(?:[\u200c\u200d]+[\p{L}\p{M}]+)*",
    "clusters": r"\X",
    # Consonants joined by a virama; ZWJ asks for the half form. ZWNJ separates them: no conjunct.
    "conjuncts": f"{_CONSONANT}(?:{_VIRAMA}{_ZWJ}?{_CONSONANT})+",
}


@dataclass(frozen=True)
class Count:
    """The number of units of a kind in a text, and how many of them token borders cut."""

    units: int
    cut: int


class Borders:
    """The borders between the tokens of a text.

    Args:
        spans: the range of characters of each token.
        length: the number of characters of the text.
    """

    def __init__(self, spans: Iterable[Span], length: int) -> None:
        edges = np.array(list(spans), dtype=np.int64).reshape(-1, 2)
        edges = edges[edges[:, 1] > edges[:, 0]]
        between = np.zeros(length + 1, dtype=bool)
        between[edges.ravel()] = True
        covering = np.zeros(length + 1, dtype=np.int64)
        np.add.at(covering, edges[:, 0], 1)
        np.add.at(covering, edges[:, 1], -1)
        self._shared = np.cumsum(covering)[:length] > 1
        # At i: the borders before character i, and the characters before i that several tokens share.
        self._borders_before = np.concatenate([[0], np.cumsum(between)])
        self._shared_before = np.concatenate([[0], np.cumsum(self._shared)])
        self.parts = int(self._shared[edges[:, 0]].sum()) if len(edges) else 0
        """Tokens that stand for part of a single character."""

    def cut(self, units: list[Span]) -> int:
        """How many of the units have a border inside, or contain a character that is itself split."""
        if not units:
            return 0
        begin, end = np.array(units, dtype=np.int64).T
        inside = self._borders_before[end] - self._borders_before[begin + 1]
        parts = self._shared_before[end] - self._shared_before[begin]
        return int(((inside > 0) | (parts > 0)).sum())


def units_of(text: str, kind: str) -> list[Span]:
    """The units of a kind in an NFC text: words, clusters or conjuncts.

    Of clusters only those of two characters or more; CR LF, which is one of these, is left out.
    """
    spans = [match.span() for match in _pattern(kind).finditer(text)]
    if kind == "clusters":
        spans = [(a, b) for a, b in spans if b - a > 1 and text[a] != "\r"]
    return spans


@cache
def _pattern(kind: str) -> "regex.Pattern[str]":
    import regex

    return regex.compile(_PATTERNS[kind])
