"""What is counted of one tokenizer on one text."""

import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from recipes.data.tokenizer.base import TextTokenizer
from recipes.data.tokenizer_report.cuts import Borders, units_of

KINDS = ("words", "clusters", "conjuncts")
_CONTEXT = 20  # characters shown on each side of a difference


@dataclass
class Measures:
    """Counts over documents."""

    documents: int = 0
    bytes: int = 0
    characters: int = 0
    spaced_words: int = 0
    """Words between spaces, as fertility is usually counted."""
    tokens: int = 0
    unknown_tokens: int = 0
    part_tokens: int = 0
    """Tokens for part of a character: its bytes."""
    exact_documents: int = 0
    first_inexact: str | None = None
    units: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    cut: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))

    def rates(self) -> dict[str, float | None]:
        """The figures that are shown: shares are between 0 and 1; None if there was nothing to count."""
        return {
            "tokens_per_word": _ratio(self.tokens, self.spaced_words),
            "bytes_per_token": _ratio(self.bytes, self.tokens),
            "characters_per_token": _ratio(self.characters, self.tokens),
            "unknown": _ratio(self.unknown_tokens, self.tokens),
            "parts_of_characters": _ratio(self.part_tokens, self.tokens),
            "whole_words": _ratio(self.units["words"] - self.cut["words"], self.units["words"]),
            "cut_clusters": _ratio(self.cut["clusters"], self.units["clusters"]),
            "cut_conjuncts": _ratio(self.cut["conjuncts"], self.units["conjuncts"]),
            "exact_documents": _ratio(self.exact_documents, self.documents),
        }

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | self.rates()


def measure(tokenizer: TextTokenizer, texts: Iterable[str]) -> Measures:
    """Measures a tokenizer on NFC texts."""
    found = Measures()
    for text in texts:
        (ids,) = tokenizer.encode_batch([text])
        borders = Borders(tokenizer.spans(text), len(text))
        found.documents += 1
        found.bytes += len(text.encode())
        found.characters += len(text)
        found.spaced_words += len(text.split())
        found.tokens += len(ids)
        if tokenizer.unk_id is not None:
            found.unknown_tokens += int((ids == tokenizer.unk_id).sum())
        found.part_tokens += borders.parts
        for kind in KINDS:
            units = units_of(text, kind)
            found.units[kind] += len(units)
            found.cut[kind] += borders.cut(units)
        decoded = tokenizer.decode(ids.tolist())
        if decoded == text:
            found.exact_documents += 1
        elif found.first_inexact is None:
            found.first_inexact = _difference(text, decoded)
    return found


def _difference(text: str, decoded: str) -> str:
    """Both texts around the first place where they differ; invisible characters are written as <U+200C>."""
    pairs = zip(text, decoded, strict=False)
    place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(text), len(decoded)))
    part = slice(max(0, place - _CONTEXT), place + _CONTEXT)
    return f"{_visible(text[part])} -> {_visible(decoded[part])}"


def _visible(text: str) -> str:
    return "".join(
        character if unicodedata.category(character) not in ("Cc", "Cf", "Zl", "Zp", "Cn")
        else f"<U+{ord(character):04X}>"
        for character in text
    )  # fmt: skip


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
