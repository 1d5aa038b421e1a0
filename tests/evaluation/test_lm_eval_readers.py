"""What lm-eval offers to read its own files with reads those that are written here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from lm_eval.loggers import EvaluationTracker, WandbLogger
from lm_eval.utils import (
    get_file_datetime,
    get_file_task_name,
    get_latest_filename,
    get_results_filenames,
    get_sample_results_filenames,
    make_table,
    sanitize_task_name,
)

from recipes.config.evaluation_schema import TextsConfig
from recipes.evaluation.files import write_files
from recipes.evaluation.run import Evaluation, evaluate_documents
from recipes.evaluation.tasks import load_tasks
from recipes.report.evaluation_table import TableSpec
from tests.support.evaluation_cases import write_benchmark
from tests.support.hindi_data import own_rows, write_mirror
from tests.support.tiny_text_model import FIXTURE, LlamaTextModel, random_llama, train_tokenizer

pytestmark = pytest.mark.slow

STOCK = ["arc_easy", "boolq", "truthfulqa_gen", "triviaqa"]
GROUP = "bhashabench_hi"
MADE_HERE = ["minibench_en", "bits_per_byte_hi"]


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory: pytest.TempPathFactory) -> list[Evaluation]:
    """Choices, generated texts with filters, a group, and tasks that have no task file."""
    folder = tmp_path_factory.mktemp("readers")
    tokenizer = train_tokenizer()
    (folder / "hi.txt").write_text("दिल्ली एक पुराना शहर है।\n" * 3, encoding="utf-8")
    texts = TextsConfig(files={"hi": str(folder / "hi.txt")})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        hindi = write_mirror(folder / "mirror", own_rows())
        made_here = load_tasks(MADE_HERE, minibench=write_benchmark(folder / "benchmark", 5), texts=texts)
        loaded = [
            (STOCK, load_tasks(STOCK, mirror=FIXTURE), FIXTURE),
            ([GROUP], load_tasks([GROUP], mirror=hindi), hindi),
            (MADE_HERE, made_here, None),
        ]
        return [
            evaluate_documents(
                LlamaTextModel(random_llama(len(tokenizer)), tokenizer),
                names,
                loaded=tasks,
                mirror=mirror,
                texts=texts,
                bootstrap_iters=10,
            )
            for names, tasks, mirror in loaded
        ]


@pytest.fixture(params=[0, 1, 2], ids=["stock", "group", "made here"])
def written(request: pytest.FixtureRequest, evaluations: list[Evaluation], tmp_path: Path) -> Path:
    write_files(evaluations[request.param], tmp_path / "model", TableSpec([]), log_samples=True)
    return tmp_path / "model"


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def test_files_are_found_by_their_names(written: Path) -> None:
    files = [path.as_posix() for path in written.iterdir() if path.is_file()]
    (results,) = get_results_filenames(files)
    samples = get_sample_results_filenames(files)
    assert get_latest_filename([results]) == results
    found = read(Path(results))
    assert {get_file_task_name(Path(file).name) for file in samples} == set(found["configs"])
    (date,) = {get_file_datetime(Path(file).name) for file in samples}
    assert f"results_{date}.json" == Path(results).name


def results_of(written: Path) -> dict[str, Any]:
    (file,) = written.glob("results_*.json")
    found: dict[str, Any] = read(file)
    return found


def test_tables_are_printed_of_them(written: Path) -> None:
    found = results_of(written)
    shown = {line.split("|")[1].strip(" -") for line in make_table(found).splitlines()[2:]}
    assert shown - {""} == set(found["results"])
    if "groups" in found:
        assert f"|{GROUP}" in make_table(found, "groups")


def test_datasets_loads_them(written: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As the card promises that lm-eval's tracker writes for files that it uploads."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    found = results_of(written)
    for file in written.glob("samples_*.jsonl"):
        rows = datasets.load_dataset("json", data_files=str(file), split="train")
        task = get_file_task_name(file.name)
        assert len(rows) == found["n-samples"][task]["effective"] * len(set(rows["filter"]))
    (file,) = written.glob("results_*.json")
    row = datasets.load_dataset("json", data_files=str(file), split="train")[0]
    assert set(row["results"]) == set(found["results"])


def test_a_card_is_made_of_them(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a hub: the tracker lists the files and reads the newest where they lie."""
    cards: list[Any] = []
    beside = written.parent
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_url", lambda repo_id, filename, **_: str(written.parent / filename)
    )
    monkeypatch.setattr("huggingface_hub.DatasetCard.push_to_hub", lambda card, *_, **__: cards.append(card))
    tracker = EvaluationTracker()
    tracker.details_repo_private = tracker.details_repo = "us/details"
    tracker.api = FilesBeside(beside)
    tracker.recreate_metadata_card()
    (card,) = cards
    names = {config["config_name"] for config in card.data.to_dict()["configs"]}
    assert names == {f"model__{sanitize_task_name(task)}" for task in results_of(written)["configs"]}


class FilesBeside:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def list_repo_files(self, **_: Any) -> list[str]:
        return [str(file.relative_to(self.directory)) for file in self.directory.rglob("*") if file.is_file()]


def test_wandb_shows_them(
    evaluations: list[Evaluation], written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.chdir(written)
    logger = WandbLogger({"mode": "offline", "project": "x", "dir": str(written)})
    try:
        found = results_of(written)
        logger.post_init(found)
        logger.log_eval_result()
        logger.log_eval_samples(
            next(
                each.report["samples"]
                for each in evaluations
                if each.report["configs"].keys() == found["configs"].keys()
            )
        )
        summary = dict(logger.run.summary)
    finally:
        wandb.finish()
    for task, metrics in found["results"].items():
        for metric, value in metrics.items():
            if isinstance(value, float) and metric.endswith(",none"):
                assert summary[f"{task}/{metric.removesuffix(',none')}"] == pytest.approx(value)
