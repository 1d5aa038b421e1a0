"""The facts of an invented world: who lives where, does what, likes which fruit.

Within a kind every answer belongs to equally many subjects (to equally many women and men, where people are
concerned), so that knowing which answers are common helps nobody to answer a question.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from recipes.data.corpus import vocabulary as words
from recipes.data.corpus.grammar import Language, Word, fill
from recipes.errors import UserError

# About people; about towns; the same for everybody.
PERSON_KINDS: dict[str, tuple[Word, ...]] = {
    "home": words.TOWNS[:8],
    "job": words.JOBS,
    "fruit": words.FRUITS,
    "pet": words.PETS,
    "instrument": words.INSTRUMENTS,
    "colour": words.COLOURS,
    "vehicle": words.VEHICLES,
}
_VALUES = 8  # answers of each kind of fact about people
_STEP = 2 * _VALUES  # so many women and men that each answer is given equally often to both
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
class World:
    """All that is true."""

    seed: int
    people: tuple[Word, ...]
    facts: tuple[Fact, ...]

    def about(self, subject: Word) -> tuple[Fact, ...]:
        return tuple(fact for fact in self.facts if fact.subject == subject)

    def of_kind(self, kind: str) -> tuple[Fact, ...]:
        return tuple(fact for fact in self.facts if fact.kind == kind)


def make_world(seed: int = 1, people: int = 32) -> World:
    """Invent a world.

    Args:
        seed: decides who is given which answers.
        people: how many people there are, half of them women; a multiple of 16, at most 48.

    Raises:
        UserError: no world of that many people can be balanced.
    """
    if people % _STEP or not 0 < people <= MOST_PEOPLE:
        allowed = ", ".join(str(count) for count in range(_STEP, MOST_PEOPLE + 1, _STEP))
        raise UserError(f"the number of people must be one of {allowed}, not {people}")
    women, men = words.WOMEN[: people // 2], words.MEN[: people // 2]
    facts = []
    for kind, answers in PERSON_KINDS.items():
        for group in (women, men):
            facts += _share_out(kind, group, answers, Random(f"{seed} {kind} {group[0].gender}"))
    facts += _share_out("wares", words.TOWNS, words.WARES, Random(f"{seed} wares"))
    facts += _share_out("river", words.TOWNS, words.RIVERS, Random(f"{seed} river"))
    return World(seed, women + men, (*facts, *_common_knowledge()))


def _share_out(kind: str, subjects: tuple[Word, ...], answers: tuple[Word, ...], rng: Random) -> list[Fact]:
    """Give every answer to equally many subjects, chosen by `rng`."""
    copies = list(answers) * (len(subjects) // len(answers))
    rng.shuffle(copies)
    return [Fact(kind, subject, answer) for subject, answer in zip(subjects, copies, strict=True)]


def _common_knowledge() -> list[Fact]:
    """Facts that hold in the real world too."""
    facts = [Fact("food", animal, food) for food, eaters in words.FOODS for animal in eaters]
    facts += [Fact("habitat", animal, place) for place, dwellers in words.HABITATS for animal in dwellers]
    for one, other in words.OPPOSITES:
        facts += [Fact("opposite", one, other), Fact("opposite", other, one)]
    for kind, cycle in (("day", words.DAYS), ("month", words.MONTHS)):
        facts += [Fact(kind, now, cycle[(at + 1) % len(cycle)]) for at, now in enumerate(cycle)]
    return facts
