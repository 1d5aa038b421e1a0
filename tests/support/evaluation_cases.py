"""Cases of evaluation for processes of their own."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance

from recipes.config.hydra_app import compose
from recipes.config.schema import ParallelConfig
from recipes.config.world import launched_world
from recipes.evaluate import run
from recipes.evaluation.journal import Answers, JournalWriter
from recipes.evaluation.lm import ParamLM
from recipes.evaluation.ranks import model_ranks
from recipes.evaluation.work import Unit, Work
from recipes.inference.text_model import load_text_model
from tests.support.nemo_files import MAIN

MODEL = str(MAIN / "model.nemo")
_TEXT = "delhi is the old city of many gates and a river दिल्ली एक पुराना शहर है"
WORDS = _TEXT.split()


def scoring_requests() -> list[Instance]:
    """Long and short ones; every fourth context with several continuations; many that begin alike."""
    pairs = []
    for n in range(24):
        context = " ".join(WORDS[(n * k) % len(WORDS)] for k in range(1, 2 + n % 7))
        pairs += [(context, f" {WORDS[n % len(WORDS)]} {end}") for end in WORDS[: 4 if n % 4 == 0 else 1]]
    shown = " ".join(WORDS * 2)
    pairs += [(f"{shown} {WORDS[n % 7]} {WORDS[n // 7]}", f" {end}") for n in range(20) for end in WORDS[:2]]
    return [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]


def writing_requests() -> list[Instance]:
    settings = {"until": ["."], "max_gen_toks": 6}
    prompts = [" ".join(WORDS[: 1 + n]) for n in range(6)]
    return [Instance("generate_until", {}, (prompt, settings), i) for i, prompt in enumerate(prompts)]


def answers_case(
    tensor: int = 1, pipeline: int = 1, journal: str | None = None, path: str = MODEL
) -> tuple[list[Any], list[str], int]:
    """The answers to both kinds of requests, and how many units of work this process did for them."""
    model = load_text_model(
        path,
        num_threads=1,
        parallel=ParallelConfig(tensor, pipeline),
        world=launched_world(),
    )
    ranks = model_ranks()
    kept = JournalWriter(Path(journal), ranks.rank) if journal and ranks.answers else None
    work = CountedWork(ranks, journal=kept)
    return *_answers(ParamLM(model, max_batch_tokens=100, work=work)), work.done


def _answers(lm: ParamLM) -> tuple[list[Any], list[str]]:
    return (
        lm.loglikelihood(scoring_requests(), disable_tqdm=True),
        lm.generate_until(writing_requests(), disable_tqdm=True),
    )


def scarce_memory_case(
    tensor: int, pipeline: int, rows: int, path: str = MODEL
) -> tuple[list[Any], list[str], list[int]]:
    """The same on a split model whose last rank has no memory for more than so many rows, which it finds out
    in its last layer; and the rows of all passes that this rank began.
    """
    model = load_text_model(
        path,
        num_threads=1,
        parallel=ParallelConfig(tensor, pipeline),
        world=launched_world(),
    )
    ranks, read = model_ranks(), list[int]()

    def allocate(_: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        hidden_states = inputs[0] if inputs else named["hidden_states"]  # [s, b, h]
        read.append(hidden_states.shape[1])
        if ranks.rank == ranks.size - 1 and read[-1] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    model.gpt.decoder.layers[-1].register_forward_pre_hook(allocate, with_kwargs=True)
    work = Work(ranks, rehearses=True)
    return *_answers(ParamLM(model, max_batch_tokens=100, work=work)), read


def evaluate_case(settings: list[str]) -> int:
    """recipes.evaluate in this process."""
    return run(compose("evaluate", settings))


def unit(answer: Callable[[Sequence[int]], Answers], items: Sequence[int]) -> Unit[int]:
    """A unit of numbers."""
    return Unit("rows", items, len(items), answer, lambda items: (len(items),), answer)


class CountedWork(Work):
    done = 0

    def _answer(self, *args: Any) -> Any:
        self.done += 1
        return super()._answer(*args)


def kill_after_three_units() -> None:
    """Has this process end as by ``kill -9``, in the middle of writing its journal."""
    add, done = JournalWriter.add, 0

    def add_and_die(self: JournalWriter, *args: Any) -> None:
        nonlocal done
        add(self, *args)
        done += 1
        if done == 3:
            self._stream.write(b'{"unit": "torn')
            self._stream.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    JournalWriter.add = add_and_die  # type: ignore[method-assign]


def write_benchmark(directory: Path, items: int) -> Path:
    """A minibench of questions that differ in length."""
    directory.mkdir()
    for language in ("en", "hi"):
        lines = [
            json.dumps(
                {
                    "id": str(n),
                    "kind": "fact",
                    "question": " ".join(WORDS[(n * k) % len(WORDS)] for k in range(1, 2 + n % 9)),
                    "choices": WORDS[n % 9 : n % 9 + 4],
                    "answer": n % 4,
                },
                ensure_ascii=False,
            )
            for n in range(items)
        ]
        (directory / f"{language}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory
