"""Instructions over the facts of an invented world, in both languages, and rules that check answers.

Of a fifth of the facts nothing is asked in training: whether a model follows instructions shows there, where
it cannot repeat an answer. What it needs to know of them is in the corpus.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any, TypedDict

from recipes.data.corpus.generate import tell_facts
from recipes.data.corpus.grammar import Language, capitalise
from recipes.data.corpus.sentences import WORDINGS
from recipes.data.corpus.world import Fact, InventedWorld

FORMS = ("sentence", "word")
HELD_OUT = 5
"""One fact in so many is held out, of every kind."""
_ASKED: dict[Language, dict[str, str]] = {
    "en": {"sentence": "{question}", "word": "{question} Answer in one word."},
    "hi": {"sentence": "{question}", "word": "{question} एक शब्द में बताओ।"},
}
_FULL_STOP: dict[Language, str] = {"en": ".", "hi": "।"}


class Question(TypedDict):
    """A held-out question: what is asked, and what an answer is checked by."""

    text: str
    language: Language
    kind: str
    form: str
    right: list[str]
    """The forms of the right word."""
    wrong: list[str]
    """Those of the other words of this kind."""


def conversations(world: InventedWorld, language: Language, seed: int) -> Iterator[dict[str, Any]]:
    """An endless stream of conversations of one to three questions about facts that are not held out."""
    rng = Random(f"{world.seed} {seed} instructions {language}")
    facts = [fact for fact in _facts(world, language) if not _is_held_out(world, fact)]
    while True:
        messages = []
        for fact in rng.sample(facts, rng.randint(1, 3)):
            form = rng.choice(FORMS)
            messages.append({"role": "user", "content": _question(fact, language, form)})
            messages.append({"role": "assistant", "content": _answer(fact, language, form)})
        yield {"messages": messages}


def held_out_questions(world: InventedWorld, language: Language) -> list[Question]:
    """Both forms of a question about every fact that is held out."""
    facts = _facts(world, language)
    questions = []
    for fact in facts:
        if not _is_held_out(world, fact):
            continue
        right = _forms(fact, language)
        of_kind = {form for other in facts if other.kind == fact.kind for form in _forms(other, language)}
        for form in FORMS:
            questions.append(
                Question(
                    text=_question(fact, language, form),
                    language=language,
                    kind=fact.kind,
                    form=form,
                    right=right,
                    wrong=sorted(of_kind.difference(right)),
                )
            )
    return questions


def judge(question: Mapping[str, Any], answer: str) -> tuple[bool, bool]:
    """Whether an answer has the form that was asked for, and whether it is right too.

    One word: nothing but a word of the kind that was asked for, with or without a full stop. A sentence: at
    least three words with a full stop, which name the right answer or a wrong one, but not several.
    """
    answer = answer.strip()
    text = re.sub(r"[.,।?!]", " ", answer).casefold().split()
    right, wrong = (
        [_within(text, form) for form in question[key] if _within(text, form)] for key in ("right", "wrong")
    )
    if question["form"] == "word":
        form = len(text) in right + wrong
    else:
        ended = answer.endswith(_FULL_STOP[question["language"]])
        form = ended and len(text) >= 3 and bool(right) != bool(wrong)
    return form, form and bool(right)


def _within(text: list[str], form: str) -> int:
    """How many words the form has, if they are in the text; else 0."""
    words = form.casefold().split()
    found = f" {' '.join(words)} " in f" {' '.join(text)} "
    return len(words) if found else 0


def _forms(fact: Fact, language: Language) -> list[str]:
    """The answer in all forms that a sentence may have it in."""
    forms = ("{a}", "{a.pl}") if language == "en" else ("{a}", "{a.obl}", "{a.pl}", "{a.f}")
    return sorted({fact.say(form, language) for form in forms})


def _facts(world: InventedWorld, language: Language) -> list[Fact]:
    return [card.fact for card in tell_facts(world, language)]


def _is_held_out(world: InventedWorld, fact: Fact) -> bool:
    """The same facts in both languages."""
    facts = world.of_kind(fact.kind)
    order = Random(f"{world.seed} instructions {fact.kind}").sample(facts, len(facts))
    return order.index(fact) % HELD_OUT == 0


def _wording(kind: str, language: Language) -> tuple[str, str]:
    """The question of a kind of fact, and its answer."""
    asked = next(wording for wording in WORDINGS[language][kind].asked if "?" in wording)
    question, answer = asked.split("?", 1)
    return f"{question}?", answer.strip()


def _question(fact: Fact, language: Language, form: str) -> str:
    question = capitalise(fact.say(_wording(fact.kind, language)[0], language))
    return _ASKED[language][form].format(question=question)


def _answer(fact: Fact, language: Language, form: str) -> str:
    if form == "word":
        return f"{_word(fact, language)}{_FULL_STOP[language]}"
    return capitalise(fact.say(_wording(fact.kind, language)[1], language))


def _word(fact: Fact, language: Language) -> str:
    return fact.say("{a}", language)
