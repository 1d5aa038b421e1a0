"""The facts of an invented world: who lives where, does what, likes which fruit.

Within a kind every answer belongs to the same number of subjects (for people: to as many women as men), so
that knowing which answers are common does not help with any question.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from recipes.data.corpus import vocabulary as words
from recipes.data.corpus.grammar import Language, Word, fill
from recipes.errors import UserError

# Kinds of facts about people, with their possible answers.
PERSON_KINDS: dict[str, tuple[Word, ...]] = {
    "home": words.TOWNS[:8],
    "job": words.JOBS,
    "fruit": words.FRUITS,
    "pet": words.PETS,
    "instrument": words.INSTRUMENTS,
    "colour": words.COLOURS,
    "vehicle": words.VEHICLES,
}
_ANSWERS = 8  # to each kind of fact about people
_PEOPLE_STEP = 2 * _ANSWERS  # Then every answer is given equally often to women and to men.
MOST_PEOPLE = len(words.WOMEN) + len(words.MEN)


@dataclass(frozen=True)
class Fact:
    """The answer to one question about one subject: (home, Asha) is Rampur."""

    kind: str
    subject: Word
    answer: Word

    def say(self, template: str, language: Language) -> str:
        """The fact in the words of `template`, or of a part of one."""
        return fill(template, self.subject, self.answer, language)


@dataclass(frozen=True)
class InventedWorld:
    """People, and everything that is true of them and around them."""

    seed: int
    people: tuple[Word, ...]
    facts: tuple[Fact, ...]

    def about(self, subject: Word) -> tuple[Fact, ...]:
        return tuple(fact for fact in self.facts if fact.subject == subject)

    def of_kind(self, kind: str) -> tuple[Fact, ...]:
        return tuple(fact for fact in self.facts if fact.kind == kind)


def make_world(seed: int = 1, people: int = 32) -> InventedWorld:
    """Invent a world.

    Args:
        seed: decides which answers are given to whom.
        people: how many people there are, half of them women; a multiple of 16, at most 48.

    Raises:
        UserError: a world of that many people cannot be balanced.
    """
    if people % _PEOPLE_STEP or not 0 < people <= MOST_PEOPLE:
        allowed = ", ".join(str(count) for count in range(_PEOPLE_STEP, MOST_PEOPLE + 1, _PEOPLE_STEP))
        raise UserError(f"the number of people must be one of {allowed}, not {people}")
    women, men = words.WOMEN[: people // 2], words.MEN[: people // 2]
    facts = []
    for kind, answers in PERSON_KINDS.items():
        for group in (women, men):
            facts += _share_out(kind, group, answers, Random(f"{seed} {kind} {group[0].gender}"))
    facts += _share_out("wares", words.TOWNS, words.WARES, Random(f"{seed} wares"))
    facts += _share_out("river", words.TOWNS, words.RIVERS, Random(f"{seed} river"))
    return InventedWorld(seed, women + men, (*facts, *_common_knowledge()))


def _share_out(kind: str, subjects: tuple[Word, ...], answers: tuple[Word, ...], rng: Random) -> list[Fact]:
    """Give every answer to the same number of subjects, chosen by `rng`."""
    copies = list(answers) * (len(subjects) // len(answers))
    rng.shuffle(copies)
    return [Fact(kind, subject, answer) for subject, answer in zip(subjects, copies, strict=True)]


def _common_knowledge() -> list[Fact]:
    """Facts that hold in the real world too."""
    facts = [Fact("food", animal, food) for food, eaters in words.FOODS for animal in eaters]
    facts += [Fact("habitat", animal, place) for place, dwellers in words.HABITATS for animal in dwellers]
    for quality, opposite in words.OPPOSITES:
        facts += [Fact("opposite", quality, opposite), Fact("opposite", opposite, quality)]
    for kind, cycle in (("day", words.DAYS), ("month", words.MONTHS)):
        facts += [Fact(kind, now, cycle[(at + 1) % len(cycle)]) for at, now in enumerate(cycle)]
    return facts
