"""Documents of random tokens, as long and as alike as those of the benchmarks."""

from __future__ import annotations

import random
from dataclasses import dataclass

Ids = list[int]
FIRST_WORD = 3
"""Ids from here on are words; those before are special."""
STOP_STRINGS = ["77", "33", "99"]
"""Parts of words, which are numbers: about one word in nine has one."""
NEW_TOKENS = 24


@dataclass(frozen=True)
class Document:
    """A question, and the answers that are scored after it; none: one is written."""

    context: Ids
    choices: list[Ids]


class Words:
    """Draws tokens.

    Args:
        vocabulary: ids below it.
        seed: of everything that is drawn.
    """

    def __init__(self, vocabulary: int, seed: str) -> None:
        self.vocabulary, self.random = vocabulary, random.Random(seed)

    def some(self, least: int, most: int) -> Ids:
        """As many tokens as one of these numbers."""
        count = self.random.randint(least, most)
        return [self.random.randrange(FIRST_WORD, self.vocabulary) for _ in range(count)]


def documents(kind: str, number: int, vocabulary: int) -> list[Document]:
    """So many documents of a kind, always the same ones: more of them begin with the same."""
    words = Words(vocabulary, seed=kind)
    return {"choices": _choices, "truthfulqa": _truthfulqa, "letters": _letters, "texts": _texts}[kind](
        words, number
    )


def _choices(words: Words, number: int) -> list[Document]:
    """In turns as ARC's (a short question) and as HellaSwag's (a longer story, and ends of it)."""
    found = []
    for i in range(number):
        context = words.some(50, 110) if i % 2 else words.some(16, 44)
        found.append(Document(context, [words.some(14, 36) if i % 2 else words.some(2, 9) for _ in range(4)]))
    return found


def _truthfulqa(words: Words, number: int) -> list[Document]:
    """After the same six questions with their answers, as its prompt has them."""
    shown = words.some(200, 200)
    return [
        Document(shown + words.some(10, 24), [words.some(6, 18) for _ in range(words.random.randint(4, 8))])
        for _ in range(number)
    ]


def _letters(words: Words, number: int) -> list[Document]:
    """MMLU's: a line that names the subject, question and choices; the answer is a letter."""
    letters = [[letter] for letter in words.some(4, 4)]
    subjects = [words.some(12, 16) for _ in range(57)]
    return [Document(words.random.choice(subjects) + words.some(50, 170), letters) for _ in range(number)]


def _texts(words: Words, number: int) -> list[Document]:
    """TriviaQA's."""
    return [Document(words.some(16, 44), []) for _ in range(number)]
