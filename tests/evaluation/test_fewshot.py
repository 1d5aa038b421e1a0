"""Examples never hold the question that is asked, whichever split a task takes them from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from recipes.errors import UserError
from recipes.evaluation.run import set_fewshot
from recipes.evaluation.tasks import load_tasks

MIRROR = Path(__file__).parents[1] / "fixtures" / "benchmarks" / "mirror"
STOCK = ("arc_easy", "hellaswag", "piqa", "boolq", "multirc", "hellaswag_hi")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def minibench(tmp_path: Path) -> Path:
    for language in ("en", "hi"):
        items = [
            {"id": str(n), "question": f"{language} {n}?", "choices": list("abcd"), "answer": n % 4}
            for n in range(6)
        ]
        (tmp_path / f"{language}.jsonl").write_text("\n".join(map(json.dumps, items)))
    return tmp_path


def examples_of(task: Any, shots: int) -> list[tuple[Any, list[Any]]]:
    """Every document that is asked with the examples shown before it."""
    shown: list[list[Any]] = []
    sample = task.sampler.sample

    def recorded(**options: Any) -> Any:
        shown.append(list(sample(**options)))
        return shown[-1]

    task.sampler.sample = recorded
    docs = list(task.eval_docs)
    for doc in docs:
        task.fewshot_context(doc, shots)
    return list(zip(docs, shown, strict=True))


def test_own_benchmark(minibench: Path) -> None:
    loaded = load_tasks(["minibench_en", "minibench_hi"], minibench=minibench)
    set_fewshot(loaded, 3)
    for task in loaded["tasks"].values():
        asked = examples_of(task, 3)
        assert len(asked) == 6
        assert all(len(examples) == 3 and doc not in examples for doc, examples in asked)


@pytest.mark.parametrize("name", STOCK)
def test_stock_tasks(name: str) -> None:
    loaded = load_tasks([name], mirror=MIRROR)
    set_fewshot(loaded, 1)
    for task in loaded["tasks"].values():
        assert all(len(examples) == 1 and doc not in examples for doc, examples in examples_of(task, 1))


def test_examples_from_the_validation_split_that_is_asked(minibench: Path) -> None:
    """A task that names one split for both, and no test split."""
    loaded = load_tasks(["minibench_en"], minibench=minibench)
    (task,) = loaded["tasks"].values()
    task.dataset["validation"] = task.dataset["test"]
    task.set_config("test_split", None)
    task.set_config("validation_split", "validation")
    task.fewshot_cfg.split = "validation"
    set_fewshot(loaded, 4)
    assert all(doc not in examples for doc, examples in examples_of(task, 4))


@pytest.mark.parametrize(("shots", "message"), [(6, "has 5 documents"), (1000, "has 5 documents")])
def test_more_examples_than_there_are(shots: int, message: str, minibench: Path) -> None:
    loaded = load_tasks(["minibench_en"], minibench=minibench)
    with pytest.raises(UserError, match=rf"^num_fewshot={shots}: minibench_en {message} to show as examples"):
        set_fewshot(loaded, shots)
    with pytest.raises(UserError, match=r"^num_fewshot=2: boolq has 1 document "):  # Of two in its split.
        set_fewshot(load_tasks(["boolq"], mirror=MIRROR), 2)
    set_fewshot(loaded, 5)
    (task,) = loaded["tasks"].values()
    assert all(len(examples) == 5 for _, examples in examples_of(task, 5))
