"""The whole of eval=indic, on invented rows in the form of its data sets, by the program and beside HFLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM

from recipes.config.evaluation_tables import read_table
from recipes.config.hydra_app import compose
from recipes.data.benchmark_mirror import read_manifest
from recipes.evaluate import run as evaluate_job
from recipes.evaluation.run import Evaluation, evaluate_documents, set_fewshot
from recipes.evaluation.tasks import load_tasks
from recipes.report.evaluation_result import read_results
from tests.support.hindi_data import indic_rows, reasoning_rows, write_mirror
from tests.support.tiny_text_model import LlamaTextModel, random_llama, train_tokenizer

pytestmark = pytest.mark.slow

TABLE: list[str] = read_table("eval", "indic")["tasks"]
MAX_LENGTH = 512


@pytest.fixture(scope="module", params=[0, 1], ids=["without examples", "one example"])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Evaluation, dict[str, Any]]:
    """What we find, and what lm-eval reports of the same weights through its own HFLM."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("indic")
    mirror = write_mirror(folder / "mirror", indic_rows())
    tokenizer = train_tokenizer(mirror)
    # Answers and stop strings that a random model would hardly ever hit upon by itself.
    loud = {tokenizer.eos_token_id, *tokenizer.encode(" A B C D.\n,")}
    llama = random_llama(len(tokenizer), max_length=MAX_LENGTH, loud=sorted(loud))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        loaded = load_tasks(TABLE, mirror=mirror)
        ours = evaluate_documents(
            LlamaTextModel(llama, tokenizer),
            TABLE,
            loaded=loaded,
            mirror=mirror,
            num_fewshot=request.param,
            bootstrap_iters=100,
        )
        set_fewshot(loaded, request.param)  # Drawing examples has moved their seed on.
        hflm = HFLM(pretrained=llama, tokenizer=tokenizer, batch_size=16, device="cpu", max_length=MAX_LENGTH)
        return ours, evaluator.evaluate(hflm, loaded, bootstrap_iters=100)  # type: ignore[return-value]


def test_figures_are_those_of_hflm(both: tuple[Evaluation, dict[str, Any]]) -> None:
    ours, theirs = both
    assert ours.report["results"].keys() == theirs["results"].keys() >= set(TABLE)
    for task, reported in theirs["results"].items():
        for metric, value in reported.items():
            found = ours.report["results"][task][metric]
            equal = found == value if isinstance(value, dict) else found == pytest.approx(value, abs=1e-6)
            assert equal, (task, metric)
    assert ours.report["n-shot"] == theirs["n-shot"]


def test_answers_are_those_of_hflm(both: tuple[Evaluation, dict[str, Any]]) -> None:
    ours, theirs = both
    pairs = [
        (mine, other)
        for task, samples in theirs["samples"].items()
        for sample, our_sample in zip(samples, ours.report["samples"][task], strict=True)
        for (other,), (mine,) in zip(sample["resps"], our_sample["resps"], strict=True)
    ]
    texts = [(mine, other) for mine, other in pairs if isinstance(other, str)]
    scores = [(mine, other) for mine, other in pairs if not isinstance(other, str)]
    assert len(scores) > 1500 and len(texts) == 12
    assert all(mine == other for mine, other in texts)
    assert max(abs(mine[0] - other[0]) for mine, other in scores) < 1e-3
    assert [mine[1] for mine, _ in scores] == [other[1] for _, other in scores]


COUNTS = {
    "arc_hi": 9,
    "truthfulqa_hi_mc1": 2,
    "truthfulqa_hi_mc2": 2,
    "m_mmlu_hi": 5,
    "global_mmlu_full_hi": 57 * 3,
    "mmmlu_hi_in": 57 * 3,
    "include_base_44_hindi": 8 * 3,
    "xnli_hi": 3,
    "bhs_hindi": 2 * (2 + 3 + 4),
    "milu_hi": 8,
    "bhashabench_hi": 6 * 4,
    "parambench_hi": 8,
    "indicqa_hi": 8,
}
"""Documents of each task; 4 of those that are not named."""


def test_every_document_counts_once(both: tuple[Evaluation, dict[str, Any]]) -> None:
    ours, _ = both
    found = ours.result.tasks
    assert {task: found[task].n for task in TABLE} == {task: COUNTS.get(task, 4) for task in TABLE}
    assert {name for name, task in found.items() if task.truncated} <= {
        "truthfulqa_hi_mc1",
        "truthfulqa_hi_mc2",
    }
    for name, task in found.items():
        assert task.scores and all(score.stderr is not None for score in task.scores.values()), name


def test_groups_of_many_subjects_are_weighted_as_they_say(both: tuple[Evaluation, dict[str, Any]]) -> None:
    ours, _ = both
    tasks = ours.result.tasks
    for name in (
        "global_mmlu_full_hi",
        "mmmlu_hi_in",
        "include_base_44_hindi",
        "bhs_hindi",
        "bhashabench_hi",
    ):
        parts = [tasks[part] for part in tasks[name].tasks]
        sizes = [
            1 if name == "bhs_hindi" else part.n for part in parts
        ]  # The one that weighs its parts alike.
        hits = sum(part.scores["acc,none"].value * size for part, size in zip(parts, sizes, strict=True))
        assert tasks[name].scores["acc,none"].value == pytest.approx(hits / sum(sizes)), name


def test_reasoning_is_shown_five_solved_examples(tmp_path: Path) -> None:
    mirror = write_mirror(tmp_path / "mirror", reasoning_rows())
    tokenizer = train_tokenizer(mirror)
    # It ends soon: an answer may have 2,048 tokens.
    llama = random_llama(len(tokenizer), max_length=4096, loud=[tokenizer.eos_token_id])
    table = read_table("eval", "indic_reasoning")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        found = evaluate_documents(
            LlamaTextModel(llama, tokenizer),
            table["tasks"],
            mirror=mirror,
            num_fewshot=table["num_fewshot"],
            limit=1,
        )
    group = found.result.tasks["mmlu_prox_hi"]
    assert (group.n, len(group.tasks), group.truncated) == (14, 14, 0)
    assert "exact_match,custom-extract" in group.scores
    for samples in found.report["samples"].values():
        prompt = samples[0]["arguments"][0][0]
        assert prompt.count("उत्तर है (") == 5 + 1  # The task's own instructions speak of it, too.
        assert prompt.endswith("उत्तर: चलिए चरण-दर-चरण सोचते हैं।")


def test_the_program_writes_it_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mirror = write_mirror(tmp_path / "mirror", indic_rows())
    tokenizer = train_tokenizer(mirror)
    random_llama(len(tokenizer), max_length=MAX_LENGTH).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        settings = ["eval=indic", f"mirror={mirror}", "log_samples=true", "num_threads=1", "limit=2"]
        model = [f"gpt_model_file={tmp_path / 'model'}", f"output={tmp_path / 'out.json'}"]
        assert evaluate_job(compose("evaluate", [*model, *settings])) == 0
    printed, written = capsys.readouterr().out, (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    for task in TABLE:
        (row, *_) = [line for line in printed.splitlines() if line.startswith(f"| {task} ")]
        assert row in written
    held = read_manifest(mirror)
    found = read_results(tmp_path / "out.json").tasks
    for entry, facts in held.items():
        data_set, configuration, split = entry.rsplit("/", 2)
        readers = [
            task
            for task in found.values()
            if (task.data.get("data_set"), task.data.get("configuration")) == (data_set, configuration)
        ]
        assert readers and {task.data["sha256"][split] for task in readers} == {facts["sha256"]}, entry
    for name, task in found.items():
        if not task.tasks:
            (file,) = (tmp_path / "out").glob(f"samples_{name}_2*.jsonl")
            assert len(file.read_text(encoding="utf-8").splitlines()) == task.n, name
