"""The files beside the results: as lm-eval writes its own, and those for people and comparisons."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.loggers import EvaluationTracker
from lm_eval.utils import get_file_task_name

from recipes.data.benchmark_mirror import in_place_of_hub, read_manifest
from recipes.errors import UserError
from recipes.evaluation.files import write_files
from recipes.evaluation.lm import ParamLM
from recipes.evaluation.run import Evaluation, evaluate_documents
from recipes.report.document_scores import read_document_scores
from recipes.report.evaluation_table import TableSpec
from tests.support.tiny_text_model import FIXTURE, LlamaTextModel, random_llama, train_tokenizer

TASKS = ["arc_easy", "boolq", "multirc", "triviaqa"]


@pytest.fixture(scope="module")
def model() -> LlamaTextModel:
    tokenizer = train_tokenizer()
    return LlamaTextModel(random_llama(len(tokenizer)), tokenizer)


@pytest.fixture
def evaluation(model: LlamaTextModel) -> Evaluation:
    return evaluate_documents(model, TASKS, mirror=FIXTURE, bootstrap_iters=100)


def by_kind(directory: Path) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """lm-eval's results, and the samples of each task."""
    (results,) = directory.rglob("results_*.json")
    samples = {
        get_file_task_name(file.name): [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        for file in directory.rglob("samples_*.jsonl")
    }
    return json.loads(results.read_text("utf-8")), samples


def test_they_are_those_of_lm_eval(model: LlamaTextModel, evaluation: Evaluation, tmp_path: Path) -> None:
    write_files(evaluation, tmp_path / "ours", TableSpec([]), log_samples=True)
    tracker = EvaluationTracker(output_path=str(tmp_path / "theirs"))
    with in_place_of_hub(FIXTURE):
        report: Any = simple_evaluate(
            ParamLM(model), tasks=[*TASKS], num_fewshot=0, bootstrap_iters=100, evaluation_tracker=tracker
        )
    samples = report.pop("samples")
    tracker.save_results_aggregated(results=report, samples=samples)
    for task in TASKS:
        tracker.save_results_samples(task_name=task, samples=samples[task])

    write_files(evaluation, tmp_path / "again", TableSpec([]), log_samples=True)
    assert by_kind(tmp_path / "again")[1] == by_kind(tmp_path / "ours")[1]
    (ours, our_samples), (theirs, their_samples) = by_kind(tmp_path / "ours"), by_kind(tmp_path / "theirs")
    assert our_samples == their_samples and set(our_samples) == set(TASKS)
    assert theirs.keys() <= ours.keys()
    for key in ("results", "configs", "versions", "n-shot", "n-samples", "higher_is_better", "task_hashes"):
        assert ours[key] == theirs[key], key
    assert theirs["config"].keys() <= ours["config"].keys()


def test_the_seed_is_the_one_that_drew_the_examples(model: LlamaTextModel, tmp_path: Path) -> None:
    found = evaluate_documents(model, ["arc_easy"], mirror=FIXTURE, limit=1, num_fewshot=1, seed=7)
    write_files(found, tmp_path, TableSpec([]), log_samples=False)
    assert by_kind(tmp_path)[0]["config"]["fewshot_seed"] == 7


def test_what_is_beside_them(evaluation: Evaluation, tmp_path: Path) -> None:
    write_files(evaluation, tmp_path / "x", TableSpec([]), log_samples=False)
    names = sorted(re.sub(r"_2.*\.json", "", path.name) for path in (tmp_path / "x").iterdir())
    assert names == ["chart.svg", "documents.json", "results", "table.md"]
    scores = read_document_scores(tmp_path / "x.json")
    for task in TASKS:
        for metric, documents in scores.tasks[task].items():
            mean = sum(documents.values()) / len(documents)
            assert mean == pytest.approx(evaluation.result.tasks[task].scores[metric].value)
    data = evaluation.result.tasks["boolq"].data
    held = read_manifest(FIXTURE)
    assert (data["data_set"], data["configuration"]) == ("aps/super_glue", "boolq")
    assert data["sha256"]["validation"] == held["aps/super_glue/boolq/validation"]["sha256"]


def test_a_directory_that_cannot_be_written_is_told(evaluation: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="cannot make the directory"):
        write_files(evaluation, tmp_path / "x", TableSpec([]), log_samples=False)


def test_truncated_requests_are_counted(model: LlamaTextModel) -> None:
    tokenizer = train_tokenizer()
    short = LlamaTextModel(random_llama(len(tokenizer), max_length=60), tokenizer)
    counts = []
    for some in (short, model):
        lm = ParamLM(some)
        pairs = [("word " * n, " yes") for n in (2, 100, 2, 90)]
        lm.loglikelihood(
            [Instance("loglikelihood", {}, pair, 0, metadata=("t", i, 1)) for i, pair in enumerate(pairs)]
        )
        settings = {"until": ["."], "max_gen_toks": 5}
        lm.generate_until(
            [Instance("generate_until", {}, (text, settings), 0, metadata=("u", 0, 1)) for text, _ in pairs]
        )
        counts.append(lm.truncated)
    assert counts == [{"t": 2, "u": 2}, {"t": 0, "u": 0}]
    shorter = LlamaTextModel(random_llama(len(tokenizer), max_length=12), tokenizer)
    found = evaluate_documents(shorter, ["boolq"], mirror=FIXTURE).result.tasks["boolq"]
    assert (found.n, found.truncated) == (2, 4)  # yes and no
