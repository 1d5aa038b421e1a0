"""Word forms of both languages, and the small template language that the sentences are written in.

A template is an ordinary sentence with three kinds of marks:

* `{s}`, `{a}`, `{a.pl}`: a word (`s` is the subject, `a` the answer), perhaps in one of its forms;
* `[रहता|रहती]` or `[He|She]`: masculine or feminine, as the subject is;
* `<बनता|बनती>`: masculine or feminine, as the answer is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Gender = Literal["m", "f"]
Language = Literal["en", "hi"]
LANGUAGES: tuple[Language, ...] = ("en", "hi")

_BY_SUBJECT = re.compile(r"\[([^|\]]*)\|([^\]]*)\]")
_BY_ANSWER = re.compile(r"<([^|>]*)\|([^>]*)>")


@dataclass(frozen=True)
class English:
    """An English word; templates use `{a}`, `{a.an}` (with its article) and `{a.pl}` (plural)."""

    word: str
    pl: str

    def __str__(self) -> str:
        return self.word

    @property
    def an(self) -> str:
        article = "an" if self.word[0].lower() in "aeiou" else "a"
        return f"{article} {self.word}"


@dataclass(frozen=True)
class Hindi:
    """A Hindi word; templates use `{a}`, `{a.obl}` (before a postposition), `{a.pl}` and `{a.f}`.

    `pl` is the direct plural; `f` is the feminine of an adjective (a noun repeats itself there).
    """

    word: str
    gender: Gender
    obl: str
    pl: str
    f: str

    def __str__(self) -> str:
        return self.word


@dataclass(frozen=True)
class Word:
    """One thing of the world, in both languages."""

    en: English
    hi: Hindi
    # Only names of jobs differ: शिक्षक and शिक्षिका are both "teacher".
    hi_of_woman: Hindi | None = None

    @property
    def gender(self) -> Gender:
        return self.hi.gender

    def said_of(self, person: Word) -> Word:
        """This word as it applies to `person`: the feminine noun for a woman, if there is one."""
        if person.gender == "f" and self.hi_of_woman is not None:
            return Word(self.en, self.hi_of_woman)
        return self

    def form(self, language: Language) -> English | Hindi:
        return self.en if language == "en" else self.hi


def decline(word: str, gender: Gender) -> Hindi:
    """The forms of a regular Hindi noun, by its gender and its ending."""
    if gender == "m":
        # लड़का, लड़के; every other masculine noun keeps one form: घर, माली, चाकू.
        changed = word.removesuffix("ा") + "े" if word.endswith("ा") else word
        return Hindi(word, "m", changed, changed, word)
    if word.endswith(("ी", "ि")):
        plural = word[:-1] + "ियाँ"
    elif word.endswith("ई"):
        plural = word[:-1] + "इयाँ"
    elif word.endswith("या"):
        plural = word + "ँ"
    elif word.endswith("ा"):
        plural = word + "एँ"
    else:
        plural = word + "ें"
    return Hindi(word, "f", word, plural, word)


def fixed(word: str, gender: Gender = "m") -> Hindi:
    """A Hindi word that has only one form: a proper name, an adjective such as लाल, a phrase."""
    return Hindi(word, gender, word, word, word)


def adjective(masculine: str) -> Hindi:
    """The forms of a Hindi adjective: नीला, नीले, नीली; लाल stays as it is."""
    if not masculine.endswith("ा"):
        return fixed(masculine)
    stem = masculine.removesuffix("ा")
    return Hindi(masculine, "m", stem + "े", stem + "े", stem + "ी")


def fill(template: str, subject: Word, answer: Word, language: Language, **more: Word) -> str:
    """Fill in a template, or part of one; `more` are further words, which the template names by keyword."""
    answer = answer.said_of(subject)
    template = _BY_SUBJECT.sub(r"\1" if subject.gender == "m" else r"\2", template)
    template = _BY_ANSWER.sub(r"\1" if answer.gender == "m" else r"\2", template)
    forms = {name: word.form(language) for name, word in more.items()}
    return template.format(s=subject.form(language), a=answer.form(language), **forms)


def capitalise(text: str) -> str:
    """The text as it is written at the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def split_at_answer(template: str) -> tuple[str, str]:
    """Cut a template before everything that depends on the answer: (question, completion)."""
    cut = min(at for at in (template.find("{a"), template.find("<")) if at >= 0)
    return template[:cut].rstrip(), template[cut:]
