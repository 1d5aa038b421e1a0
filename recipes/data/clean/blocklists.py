"""Lists of words and of whole documents that must not get into the training text."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import regex

from recipes.errors import UserError

# Python's own \w does not match vowel signs: it would find कम in कमी.
_WORD = regex.compile(r"[\w\p{M}]+")
JOINERS = {0x200C: None, 0x200D: None}

Phrases = dict[str, list[tuple[tuple[str, ...], str]]]
"""First word -> (the words of a phrase, the name of its list)."""


def words_of(text: str) -> list[str]:
    """The words as texts and lists are compared by: NFC, lower case, without zero-width joiners."""
    return _WORD.findall(unicodedata.normalize("NFC", text.translate(JOINERS)).lower())


def document_hash(text: str) -> str:
    """The SHA-256 of a whole document, as in hash lists: NFC, without surrounding white space, in UTF-8."""
    return hashlib.sha256(unicodedata.normalize("NFC", text).strip().encode()).hexdigest()


def read_words(paths: Mapping[str, str]) -> Phrases:
    """Lists of words and phrases by name, from files with one per line.

    Raises:
        UserError: a file is not UTF-8, or contains no words.
    """
    phrases: Phrases = {}
    for name, path in paths.items():
        entries = {tuple(words_of(line)) for line in _lines(path)} - {()}
        if not entries:
            raise UserError(f"{path} has no words: give a list, or leave lists.words.{name} out")
        for entry in sorted(entries):
            phrases.setdefault(entry[0], []).append((entry, name))
    return phrases


def read_hashes(paths: Mapping[str, str]) -> dict[str, str]:
    """Hash -> name of its list, from files with one SHA-256 per line.

    Raises:
        UserError: a line is anything else, or a file contains no hashes.
    """
    hashes: dict[str, str] = {}
    for name, path in paths.items():
        before = len(hashes)
        for line in _lines(path):
            value = line.lower()
            if not regex.fullmatch("[0-9a-f]{64}", value):
                raise UserError(f"{path}: {line[:80]!r} is not a SHA-256 of 64 hexadecimal digits")
            hashes.setdefault(value, name)
        if len(hashes) == before:
            raise UserError(f"{path} has no hashes: give a list, or leave lists.hashes.{name} out")
    return hashes


def count_matches(text: str, phrases: Phrases) -> Counter[str]:
    """How often the words and phrases of each list occur in `text`, by the list's name."""
    words = words_of(text)
    found: Counter[str] = Counter()
    for position, word in enumerate(words):
        for phrase, name in phrases.get(word, ()):
            if len(phrase) == 1 or tuple(words[position : position + len(phrase)]) == phrase:
                found[name] += 1
    return found


def _lines(path: str) -> Iterator[str]:
    try:
        with Path(path).open(encoding="utf-8-sig") as stream:
            for line in stream:
                if (line := line.strip()) and not line.startswith("#"):
                    yield line
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error.reason}") from None
