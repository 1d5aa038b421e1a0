"""The quick NFC against Python's own, wherever it might be wrong."""

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recipes.data.text.nfc import nfc

# Where things compose, decompose and change places: Devanagari and Bengali with their marks, Latin accents,
# Hangul, and scripts beyond 16 bits.
TRICKY = (
    "aeनरळकखड़\u0929\u0931\u0934क़फ़\u093c\u094d\u0951\u0952"
    "\u0901\u0902ि\u09c7\u09be\u09d7ড়\u0301\u0323\u0327é각가\u1100\u1161\u11a8\U0001109b\U000110ba🙂"
)


@pytest.mark.parametrize("before", ["", "a", "न", "\u094d", "\u093c", "\u1100", "\u0323"])
def test_every_character_behind(before: str) -> None:
    characters = [chr(code) for code in [*range(0xD800), *range(0xE000, 0x20000)]]
    assert [c for c in characters if nfc(before + c) != unicodedata.normalize("NFC", before + c)] == []


def test_every_composition() -> None:
    parts = [unicodedata.decomposition(chr(code)).split() for code in range(0x80, 0x20000)]
    pairs = [
        "".join(chr(int(part, 16)) for part in two) for two in parts if len(two) == 2 and two[0][0] != "<"
    ]
    assert len(pairs) > 900
    assert [pair for pair in pairs if nfc(f"x{pair}y") != unicodedata.normalize("NFC", f"x{pair}y")] == []


@settings(max_examples=500)
@given(st.text(st.sampled_from(TRICKY), max_size=8) | st.text(max_size=12))
@example("क\u094d\u093c")
def test_any_text(text: str) -> None:
    assert nfc(text) == unicodedata.normalize("NFC", text)


def test_hindi_without_anything_to_do_is_not_copied() -> None:
    text = "सड़क पर पढ़ना"
    decomposed = unicodedata.normalize("NFC", text)
    assert "\u093c" in decomposed and nfc(decomposed) is decomposed
