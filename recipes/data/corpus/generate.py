"""The documents of the corpus, and the benchmark that belongs to it.

Which wording of a fact is held out depends only on the world. Corpora of the same world, whatever their seed
and size, therefore share one benchmark, and none of their documents contains one of its questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TypedDict

from recipes.data.corpus.grammar import Language, Word, capitalise, split_at_answer
from recipes.data.corpus.sentences import KINDS, WORDINGS
from recipes.data.corpus.stories import SCENES, STORIES, tell
from recipes.data.corpus.world import Fact, InventedWorld

CHOICES = 4


class Item(TypedDict):
    """A question of the benchmark: which of `choices` continues `question`, after one space."""

    id: str
    kind: str
    question: str
    choices: list[str]
    answer: int


@dataclass(frozen=True)
class ToldFact:
    """A fact in one language: the sentences that documents may contain, and the template that is held out."""

    fact: Fact
    sentences: tuple[str, ...]
    held_out: str


def tell_facts(world: InventedWorld, language: Language) -> list[ToldFact]:
    """Word all facts of the world, holding out one wording of each.

    Within a kind every wording is held out equally often, give or take one fact.
    """
    told = []
    for kind in KINDS:
        wordings = WORDINGS[language][kind]
        facts = _in_order_of_answers(world.of_kind(kind), Random(f"{world.seed} held out {language} {kind}"))
        for position, fact in enumerate(facts):
            held_out = wordings.asked[position % len(wordings.asked)]
            templates = (wording for wording in wordings.asked + wordings.only_told if wording != held_out)
            sentences = tuple(capitalise(fact.say(wording, language)) for wording in templates)
            told.append(ToldFact(fact, sentences, held_out))
    return told


def _in_order_of_answers(facts: tuple[Fact, ...], rng: Random) -> list[Fact]:
    """The facts in random order, but with equal answers next to each other.

    Held out in this order, every wording is left out equally often with each answer. Otherwise documents
    would use a wording less often with exactly those answers that the benchmark asks for in it.
    """
    answers = list(dict.fromkeys(fact.answer for fact in facts))
    rng.shuffle(answers)
    return sorted(rng.sample(facts, len(facts)), key=lambda fact: answers.index(fact.answer))


class _Deck:
    """Facts drawn without replacement and reshuffled when they run out: all come up equally often."""

    def __init__(self, cards: Sequence[ToldFact], rng: Random) -> None:
        self._cards = list(cards)
        self._rng = rng
        self._left: list[ToldFact] = []

    def draw(self, count: int) -> list[ToldFact]:
        drawn: list[ToldFact] = []
        # After a reshuffle a card may come up a second time: no document says the same thing twice.
        while len(drawn) < min(count, len(self._cards)):
            if not self._left:
                self._left = self._rng.sample(self._cards, len(self._cards))
            card = self._left.pop()
            if card not in drawn:
                drawn.append(card)
        return drawn


def documents(world: InventedWorld, language: Language, seed: int, split: str = "train") -> Iterator[str]:
    """An endless stream of documents in one language; each `split` has its own.

    A document is a handful of mixed facts, a portrait of one person, a comparison of several subjects, a
    story or a scene, three to six sentences long.
    """
    rng = Random(f"{world.seed} {seed} {split} {language}")
    told = tell_facts(world, language)
    everything = _Deck(told, rng)
    by_kind = {kind: _Deck([card for card in told if card.fact.kind == kind], rng) for kind in KINDS}
    by_person = {
        person: _Deck([card for card in told if card.fact.subject == person], rng) for person in world.people
    }
    # A kind comes up as often as it has facts.
    kinds, weights = zip(*Counter(card.fact.kind for card in told).items(), strict=True)
    while True:
        length = rng.randint(3, 6)
        (form,) = rng.choices(("mixed", "portrait", "comparison", "story", "scene"), (35, 25, 25, 10, 5))
        if form == "story":
            yield _story(rng, world, language)
        elif form == "scene":
            hero, friend = _two_people(rng, world)
            yield tell(tuple(rng.sample(SCENES, 3)), language, rng, hero, friend, {})
        else:
            if form == "mixed":
                deck = everything
            elif form == "portrait":
                deck = by_person[rng.choice(world.people)]
            else:
                deck = by_kind[rng.choices(kinds, weights)[0]]
            yield " ".join(rng.choice(card.sentences) for card in deck.draw(length))


def _story(rng: Random, world: InventedWorld, language: Language) -> str:
    hero, friend = _two_people(rng, world)
    facts = {fact.kind: fact.answer for fact in world.about(hero)}
    return tell(rng.choice(STORIES), language, rng, hero, friend, facts)


def _two_people(rng: Random, world: InventedWorld) -> tuple[Word, Word]:
    """Two different people of the same gender."""
    hero = rng.choice(world.people)
    friend = rng.choice(
        [person for person in world.people if person.gender == hero.gender and person != hero]
    )
    return hero, friend


def build_benchmark(world: InventedWorld, language: Language) -> list[Item]:
    """One question for each fact, in the wording that the documents never use for it.

    The wrong choices are other answers of the same kind, said of the same subject. All of them are offered
    equally often, as nearly as possible, and so are the four positions of the right one.
    """
    items = []
    everything = tell_facts(world, language)
    for kind in KINDS:
        told = [card for card in everything if card.fact.kind == kind]
        rng = Random(f"{world.seed} choices {language} {kind}")
        answers = list(dict.fromkeys(card.fact.answer for card in told))
        offered: Counter[Word] = Counter()
        positions = [place % CHOICES for place in range(len(told))]
        rng.shuffle(positions)
        for number, (card, position) in enumerate(zip(told, positions, strict=True)):
            wrong = _wrong_answers(card.fact, answers, offered, rng)
            items.append(_item(f"{language}-{kind}-{number}", card, wrong, position, language))
    return items


def _wrong_answers(fact: Fact, answers: list[Word], offered: Counter[Word], rng: Random) -> list[Word]:
    """The three answers that were offered least often so far; counts them in `offered`."""
    # The subject itself would be too easy to rule out: Tuesday does not follow Tuesday.
    others = [answer for answer in answers if answer not in (fact.answer, fact.subject)]
    rng.shuffle(others)
    wrong = sorted(others, key=lambda answer: offered[answer])[: CHOICES - 1]
    offered.update(wrong)
    return wrong


def _item(name: str, card: ToldFact, wrong: list[Word], position: int, language: Language) -> Item:
    question, completion = split_at_answer(card.held_out)
    choices = [replace(card.fact, answer=answer).say(completion, language) for answer in wrong]
    choices.insert(position, card.fact.say(completion, language))
    return {
        "id": name,
        "kind": card.fact.kind,
        "question": capitalise(card.fact.say(question, language)),
        "choices": choices,
        "answer": position,
    }
