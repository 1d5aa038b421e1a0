"""Hindi benchmarks: lm-eval has every task that the tables name, and this project's own ask what they should.

The rows are made up; their columns are those that the data sets' public descriptions name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from recipes.config.evaluation_tables import read_table
from recipes.data.benchmark_mirror import read_manifest
from recipes.errors import UserError
from recipes.evaluation.run import evaluate, set_fewshot
from recipes.evaluation.task_files import TASK_YAML
from recipes.evaluation.task_yaml.utils import span_scores, words
from recipes.evaluation.tasks import load_tasks
from tests.support.hindi_data import OPTIONS, own_rows, write_mirror
from tests.support.tiny_text_model import LlamaTextModel, random_llama, train_tokenizer
from tools.prefetch_benchmarks import prefetch

OWN = ["milu_hi", "bhashabench_hi", "parambench_hi", "indicqa_hi", "hellaswag_hi_ai4bharat"]


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return write_mirror(tmp_path / "mirror", own_rows())


def asked(mirror: Path, name: str) -> list[tuple[str, Any, Any]]:
    (task,) = load_tasks([name], mirror=mirror)["tasks"].values()
    return [
        (
            task.doc_to_text(doc),
            task.doc_to_choice(doc) if task.OUTPUT_TYPE != "generate_until" else None,
            task.doc_to_target(doc),
        )
        for doc in task.eval_docs
    ]


LETTERED = (
    "भारत की राजधानी क्या है?\nA. दिल्ली\nB. मुंबई\nC. चेन्नई\nD. कोलकाता\nउत्तर:",
    ["A", "B", "C", "D"],
)


def test_what_is_asked(mirror: Path) -> None:
    assert asked(mirror, "milu_hi") == [(*LETTERED, 0), (*LETTERED, 2)]
    assert asked(mirror, "parambench_hi") == [(*LETTERED, 0), (*LETTERED, 3)]
    assert asked(mirror, "bhashabench_hi_legal") == [(*LETTERED, 1)]
    assert asked(mirror, "hellaswag_hi_ai4bharat") == [("Cooking: A man cuts onions. He", OPTIONS, 2)]
    prompt = "दिल्ली भारत की राजधानी है।\n\nप्रश्न: भारत की राजधानी क्या है?\nउत्तर:"
    assert asked(mirror, "indicqa_hi") == [(prompt, None, "दिल्ली।"), (prompt, None, "नई दिल्ली")]


def test_they_run_and_a_group_counts_questions(mirror: Path) -> None:
    tokenizer = train_tokenizer()
    model = LlamaTextModel(random_llama(len(tokenizer)), tokenizer)
    result = evaluate(model, OWN, mirror=mirror, bootstrap_iters=0)
    assert [result.tasks[name].n for name in OWN] == [2, 6, 2, 2, 1]
    group = result.tasks["bhashabench_hi"]
    parts = [result.tasks[name] for name in group.tasks]
    hits = sum(part.scores["acc,none"].value * part.n for part in parts)
    assert group.scores["acc,none"].value == pytest.approx(hits / 6)
    assert set(result.tasks["indicqa_hi"].scores) == {"exact_match,none", "f1,none"}


def test_examples_come_from_validation(mirror: Path) -> None:
    loaded = load_tasks(["milu_hi"], mirror=mirror)
    set_fewshot(loaded, 1)
    (task,) = loaded["tasks"].values()
    assert task.fewshot_context(next(iter(task.eval_docs)), 1) == f"{LETTERED[0]} A\n\n{LETTERED[0]}"


def test_a_mirror_of_them_can_be_made(mirror: Path, tmp_path: Path) -> None:
    prefetch(tmp_path / "second", OWN, source=mirror)
    assert set(read_manifest(tmp_path / "second")) == set(own_rows())
    assert asked(tmp_path / "second", "indicqa_hi") == asked(mirror, "indicqa_hi")


@pytest.mark.parametrize(
    ("written", "exact_match", "f1"),
    [(" नई दिल्ली।", 1.0, 1.0), ("दिल्ली", 0.0, 2 / 3), ("मुंबई", 0.0, 0.0), ("", 0.0, 0.0)],
)
def test_spans_are_compared_word_by_word(written: str, exact_match: float, f1: float) -> None:
    row = {"answers": {"text": ["नई दिल्ली", ""]}}
    assert span_scores(row, [written]) == pytest.approx({"exact_match": exact_match, "f1": f1})


def test_words_keep_their_vowel_signs() -> None:
    assert words("‘हिन्दी’, (की) क्षमता—है।") == ["हिन्दी", "की", "क्षमता", "है"]


@pytest.fixture(scope="module")
def manager() -> TaskManager:
    return TaskManager(include_path=str(TASK_YAML))


def reached(manager: TaskManager, names: list[str]) -> set[str]:
    """The tasks, and the members of groups and tags; their functions are imported on the way."""
    waiting, seen = list(names), set[str]()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            entry = manager.task_index[name]
            if entry.yaml_path is None:
                waiting += entry.tags
                continue
            members = load_yaml(entry.yaml_path, resolve_func=True).get("task")
            waiting += members if isinstance(members, list) else []
    return seen


@pytest.mark.parametrize("table", ["lumen", "smoke", "param1_table"])
def test_every_task_of_the_tables_exists(table: str, manager: TaskManager) -> None:
    names = read_table("eval", table)["tasks"]
    assert not set(names) - set(manager.all_tasks)
    assert reached(manager, names) >= set(names)


def test_no_hindi_task_of_lm_eval_is_forgotten(manager: TaskManager) -> None:
    tables = [*read_table("eval", "indic")["tasks"], *read_table("eval", "indic_reasoning")["tasks"]]
    assert not set(tables) - set(manager.all_tasks)
    hindi = {name for name in manager.all_tasks if {"hi", "hin", "hindi"} & set(name.lower().split("_"))}
    left_out = (
        "global_mmlu_hi",  # 400 questions of global_mmlu_full_hi
        "mmlu_prox_lite_hi",  # a part of mmlu_prox_hi
        "include_base_44_hindi_few_shot",  # the same questions with examples
        "mmlu_hi_llama",  # in the chat format of Llama 3
        "global_piqa_parallel_generation",  # texts that are drawn
        "global_piqa_nonparallel_generation",
        "mlqa_",  # passage and question in different languages
        "bigbench_",  # a handful of questions
        "xquad_hi",  # broken with current transformers
    )
    missing = hindi - reached(manager, tables)
    assert {name for name in missing if not name.startswith(left_out)} == set()
    for beginning in left_out:
        assert any(name.startswith(beginning) for name in missing)


def test_a_text_that_leaves_no_room_is_refused_before_anything_runs(mirror: Path) -> None:
    tokenizer = train_tokenizer()
    model = LlamaTextModel(random_llama(len(tokenizer), max_length=64), tokenizer)
    with pytest.raises(UserError, match=r"^indicqa_hi: a task generates up to 64 tokens.*; leave it out$"):
        evaluate(model, ["milu_hi", "indicqa_hi"], mirror=mirror)
    assert not model.batches
