"""Generated instructions: the rules accept their own answers and no others, held-out facts stay out."""

from __future__ import annotations

from itertools import islice

import pytest

from recipes.data.corpus.grammar import LANGUAGES, Language
from recipes.data.corpus.instructions import (
    _answer,
    _facts,
    _is_held_out,
    conversations,
    held_out_questions,
    judge,
)
from recipes.data.corpus.world import make_world

WORLD = make_world(1, 16)


@pytest.mark.parametrize("language", LANGUAGES)
def test_rules(language: Language) -> None:
    questions = held_out_questions(WORLD, language)
    held_out = [fact for fact in _facts(WORLD, language) if _is_held_out(WORLD, fact)]
    assert len(questions) == 2 * len(held_out) and 0.15 < len(held_out) / len(WORLD.facts) < 0.3
    for fact, pair in zip(held_out, zip(questions[::2], questions[1::2], strict=True), strict=True):
        others = [other for other in WORLD.of_kind(fact.kind) if other.answer != fact.answer]
        for question in pair:
            assert judge(question, " " + _answer(fact, language, question["form"])) == (True, True)
            other_form = _answer(fact, language, "word" if question["form"] == "sentence" else "sentence")
            assert judge(question, other_form) == (False, False)
            assert judge(question, "") == judge(question, "?") == (False, False)
            wrong = [judge(question, _answer(other, language, question["form"])) for other in others]
            assert not any(right for _, right in wrong)


@pytest.mark.parametrize("language", LANGUAGES)
def test_held_out_facts_are_asked_for_by_no_conversation(language: Language) -> None:
    asked = {question["text"] for question in held_out_questions(WORLD, language)}
    told = [chat["messages"] for chat in islice(conversations(WORLD, language, 1), 500)]
    questions = {message["content"] for messages in told for message in messages[::2]}
    assert len(questions) > 100 and not asked & questions
    assert {len(messages) for messages in told} == {2, 4, 6}
