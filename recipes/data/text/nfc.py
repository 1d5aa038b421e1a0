"""NFC normalisation that quickly recognises texts that need none.

Hindi text is full of nuktas and viramas. Unicode's quick check answers "maybe" for every nukta, so Python's
`unicodedata` normalises nearly every Hindi text in full only to find it unchanged. Here a text is
normalised only if a composition, a decomposition or a reordering can really happen in it.
"""

import re
import unicodedata

_NUKTA = "\u093c"
# The only letters that compose with a nukta; the rest of them (U+0958 to U+095F) decompose.
_BEFORE_NUKTA = "\u0928\u0930\u0933"
_COMPOSING = tuple(letter + _NUKTA for letter in _BEFORE_NUKTA)


def nfc(text: str) -> str:
    """The text in normalisation form C."""
    if text.isascii() or not (_SUSPICIOUS.search(text) or any(pair in text for pair in _COMPOSING)):
        return text
    return unicodedata.normalize("NFC", text)


def _suspicious() -> re.Pattern[str]:
    """Finds a character that NFC changes or that composes with the one before it (except nuktas), or two
    marks in a row that may have to be reordered."""
    marks, changing = [], []
    followers = {_NUKTA}
    for code in [*range(0x80, 0xD800), *range(0xE000, 0x10000)]:
        character = chr(code)
        if unicodedata.combining(character):
            marks.append(character)
        if unicodedata.normalize("NFC", character) != character:
            changing.append(character)
        parts = unicodedata.decomposition(character).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            followers.add(chr(int(parts[1], 16)))
    # Conjoining vowels and final consonants of Hangul compose by rule, not by table.
    followers |= set(map(chr, [*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)]))
    # All characters beyond 16 bits count: they are rare, and `re` is fast with one range but slow with many.
    alone = _as_class([*changing, *(followers - {_NUKTA})]) + "\U00010000-\U0010ffff"
    mark = _as_class(marks)
    return re.compile(f"[{mark}{alone}](?:(?<=[{alone}])|[{mark}])")


def _as_class(characters: list[str]) -> str:
    """The characters as the ranges of a regular expression's character class, without its brackets."""
    ranges: list[list[int]] = []
    for code in sorted({ord(character) for character in characters}):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{re.escape(chr(low))}-{re.escape(chr(high))}" for low, high in ranges)


_SUSPICIOUS = _suspicious()
