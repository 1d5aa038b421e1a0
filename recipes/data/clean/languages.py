"""Which language a document is in: first its script, then Hindi, Marathi or Nepali, English or Hinglish."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from recipes.data.clean.lexicon import ENGLISH, HINGLISH

# Letters only: other scripts use the block's dandas too, and digits say nothing about the language.
_DEVANAGARI = re.compile("[\u0900-\u0963\u0971-\u097f\ua8e0-\ua8ff]")
_LATIN = re.compile("[A-Za-z\u00c0-\u024f]")
_LETTER = re.compile(r"[^\W\d_]")
_LATIN_WORD = re.compile(r"[A-Za-z\u00c0-\u024f]+(?:['’][A-Za-z]+)?")

_SAMPLE = 1500
"""Characters examined at each of three places in a long document."""
_MIN_HINGLISH = 0.12
_MIN_ENGLISH = 0.15


def devanagari_letters(text: str) -> int:
    """The number of Devanagari letters and vowel signs in `text`."""
    return len(_DEVANAGARI.findall(text))


def latin_letters(text: str) -> int:
    """The number of Latin letters in `text`."""
    return len(_LATIN.findall(text))


def script_fractions(text: str) -> tuple[float, float]:
    """The shares (0 to 1) of Devanagari and of Latin among all letters; vowel signs count as letters."""
    devanagari, latin = devanagari_letters(text), latin_letters(text)
    others = len(_LETTER.findall(_DEVANAGARI.sub("", _LATIN.sub("", text))))
    total = devanagari + latin + others
    return (devanagari / total, latin / total) if total else (0.0, 0.0)


def hinglish_and_english(text: str) -> tuple[float, float]:
    """The shares of frequent romanised Hindi words and of frequent English words among the Latin words."""
    words = [word.lower() for word in _LATIN_WORD.findall(text)]
    if not words:
        return 0.0, 0.0
    hindi = sum(word in HINGLISH for word in words)
    english = sum(word in ENGLISH for word in words)
    return hindi / len(words), english / len(words)


class Identifier:
    """Names the language of a document, such as hin_Deva; "und" if its script is mixed or unknown.

    Without a fastText model, letters decide on the script; py3langid, restricted to the three, tells Hindi,
    Marathi and Nepali apart; a lexicon finds romanised Hindi; py3langid names other languages in Latin
    letters if frequent English words are missing.
    """

    def __init__(self, min_script_fraction: float, fasttext_model: str | None = None) -> None:
        self.min_script_fraction = min_script_fraction
        self.fasttext_model = fasttext_model

    def __call__(self, text: str) -> str:
        text = sample(text)
        devanagari, latin = script_fractions(text)
        if devanagari >= self.min_script_fraction:
            if self.fasttext_model is not None:
                return _by_fasttext(self.fasttext_model, text, "Deva")
            language, _ = _py3langid(("hi", "mr", "ne")).classify(text)
            return {"hi": "hin_Deva", "mr": "mar_Deva", "ne": "npi_Deva"}[language]
        if latin < self.min_script_fraction:
            return "und"
        hindi, english = hinglish_and_english(text)
        if hindi >= _MIN_HINGLISH and hindi > english / 3:
            return "hin_Latn"
        if self.fasttext_model is not None:
            return _by_fasttext(self.fasttext_model, text, "Latn")
        if english >= _MIN_ENGLISH:
            return "eng_Latn"
        language, _ = _py3langid(None).classify(text)
        return "eng_Latn" if language == "en" else f"{language}_Latn"


def sample(text: str) -> str:
    """The beginning, the middle and the end of a long text, or the whole of a short one."""
    if len(text) <= 3 * _SAMPLE:
        return text
    middle = (len(text) - _SAMPLE) // 2
    return " ".join((text[:_SAMPLE], text[middle : middle + _SAMPLE], text[-_SAMPLE:]))


@cache
def _py3langid(languages: tuple[str, ...] | None) -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    if languages is not None:
        identifier.set_languages(list(languages))
    return identifier


# fastText's models use labels of ISO 639-1 (lid.176), or of ISO 639-3 with the script (GlotLID).
_ISO3 = {"en": "eng", "hi": "hin", "mr": "mar", "ne": "npi", "nep": "npi"}


@cache
def _fasttext(path: str) -> Any:
    from fasttext.FastText import _FastText  # fasttext.load_model prints a warning.

    return _FastText(path)


def _by_fasttext(path: str, text: str, script: str) -> str:
    labels, _ = _fasttext(path).predict(text.replace("\n", " "))
    label = labels[0].removeprefix("__label__")
    language, _, labelled_script = label.partition("_")
    return f"{_ISO3.get(language, language)}_{labelled_script or script}"
