"""Units of work: dealt by cost, found again in a journal, halved where memory is short."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from recipes.errors import UserError
from recipes.evaluation.journal import Answers, JournalWriter, read_journal
from recipes.evaluation.lm import ParamLM
from recipes.evaluation.ranks import Ranks
from recipes.evaluation.work import Abandoned, Unit, Work, deal
from tests.support.evaluation_cases import scoring_requests, unit, writing_requests
from tests.support.tiny_text_model import LlamaTextModel, random_llama, train_tokenizer

TOKENIZER = train_tokenizer()


def test_shares_cost_about_the_same_and_keep_the_order() -> None:
    costs = [9, 1, 8, 2, 7, 3, 6, 4]
    hands = deal(costs, 3)
    assert sorted(i for hand in hands for i in hand) == list(range(8))
    assert all(hand == sorted(hand) for hand in hands)
    assert sorted(sum(costs[i] for i in hand) for hand in hands) == [13, 13, 14]
    assert deal([5], 3) == [[0], [], []]


def units(asked: list[int]) -> list[Unit[int]]:
    def answer(items: Sequence[int]) -> Answers:
        asked.extend(items)
        return {i: (i * 0.1, i % 2 == 0) for i in items}

    return [unit(answer, items) for items in ([0, 1], [2], [3, 4, 5])]


def test_what_a_journal_holds_is_not_asked_again(tmp_path: Path) -> None:
    asked: list[int] = []
    first = Work(journal=JournalWriter(tmp_path, 0))
    answers = [*first.answers(units(asked), "", quiet=True)]
    known = read_journal(tmp_path)
    assert asked == [0, 1, 2, 3, 4, 5] and list(known.values()) == answers
    again = Work(known=known)
    assert [*again.answers(units(asked), "", quiet=True)] == answers and len(asked) == 6
    del known[next(iter(known))]
    [*Work(known=known).answers(units(asked), "", quiet=True)]
    assert asked[6:] == [0, 1]
    # Elsewhere, or of other items, the same numbers are no answer.
    assert len([*Work(on="cuda", known=known).answers(units(asked), "", quiet=True)]) == 3
    assert len(asked) == 14


def test_an_evaluation_without_answers_leaves_no_journal(tmp_path: Path) -> None:
    directory = tmp_path / "boolq.unfinished-0"
    journal = JournalWriter(directory, 0)
    assert not directory.exists() and read_journal(directory) == {}
    journal.add("unit", {0: "a"})
    assert read_journal(directory) == {"unit": {0: "a"}}


def test_it_is_abandoned_before_the_next_unit() -> None:
    asked: list[int] = []
    work = Work(stop=lambda: len(asked) >= 2)
    with pytest.raises(Abandoned):
        [*work.answers(units(asked), "", quiet=True)]
    assert asked == [0, 1]


def test_a_torn_line_costs_its_unit_alone(tmp_path: Path) -> None:
    work = Work(journal=JournalWriter(tmp_path, 0))
    [*work.answers(units([]), "", quiet=True)]
    file = tmp_path / "0.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:2]) + lines[2][:20])
    assert len(read_journal(tmp_path)) == 2
    asked: list[int] = []
    [
        *Work(known=read_journal(tmp_path), journal=JournalWriter(tmp_path, 0)).answers(
            units(asked), "", quiet=True
        )
    ]
    assert asked == [3, 4, 5] and len(read_journal(tmp_path)) == 3


class SmallMemory(LlamaTextModel):
    """Cannot read more than some rows at a time."""

    rows = 3
    refused = 0

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        if len(tokens) > self.rows:
            self.refused += 1
            if self.refused % 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            torch.empty(2**50)  # What the CPU says.
        return super().logits(tokens)


def test_batches_that_do_not_fit_are_halved() -> None:
    llama = random_llama(len(TOKENIZER), 0, 128)
    small, large = SmallMemory(llama, TOKENIZER), LlamaTextModel(llama, TOKENIZER)
    for model in (small, large):
        model.answers = (  # type: ignore[attr-defined]
            ParamLM(model).loglikelihood(scoring_requests(), disable_tqdm=True),
            ParamLM(model).generate_until(writing_requests(), disable_tqdm=True),
        )
    assert small.refused > 4 and max(rows for rows, _ in small.batches) <= 3
    (scores, texts), (wanted, wanted_texts) = small.answers, large.answers  # type: ignore[attr-defined]
    assert [score for score, _ in scores] == pytest.approx([score for score, _ in wanted], abs=1e-4)
    assert texts == wanted_texts


def test_what_cannot_be_halved_is_one_line() -> None:
    model = SmallMemory(random_llama(len(TOKENIZER), 0, 128), TOKENIZER)
    model.rows = 0
    with pytest.raises(
        UserError, match=r"^one document does not fit .*tensor_model_parallel_size \(CUDA out"
    ):
        ParamLM(model).loglikelihood(scoring_requests()[:1], disable_tqdm=True)
    split = Work(Ranks(size=2))  # The other half of the model waits.
    with pytest.raises(UserError, match=r"^a batch does not fit into memory; lower max_batch_tokens \("):
        ParamLM(model, work=split).loglikelihood(scoring_requests(), disable_tqdm=True)
