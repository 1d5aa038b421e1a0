"""Task files of a user's own: their data, their examples, and what is kept of their results."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest

from recipes.config.hydra_app import compose
from recipes.data.benchmark_mirror import read_manifest, split_file, write_index
from recipes.errors import UserError
from recipes.evaluate import run as evaluate_job
from recipes.evaluation.kept_results import settings_of
from recipes.evaluation.run import evaluate, set_fewshot
from recipes.evaluation.tasks import load_tasks
from recipes.report.evaluation_result import read_results
from tests.support.nemo_files import MAIN
from tests.support.tiny_text_model import FIXTURE, LlamaTextModel, random_llama, train_tokenizer
from tools.prefetch_benchmarks import main, prefetch

TASK = """\
task: rivers
dataset_path: json
dataset_kwargs:
  data_files:
    train: rivers/examples.jsonl
    test: rivers/questions.jsonl
output_type: multiple_choice
training_split: train
test_split: test
fewshot_split: train
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list:
  - metric: acc
metadata:
  version: 2.0
"""


WRITING = """\
task: unlimited
dataset_path: json
dataset_kwargs: {data_files: {test: rivers/questions.jsonl}}
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: here
metric_list:
  - metric: exact_match
"""
OWN_BOOLQ = """\
task: own_boolq
dataset_path: aps/super_glue
dataset_name: boolq
output_type: multiple_choice
test_split: validation
doc_to_text: question
doc_to_target: label
doc_to_choice: ['no', 'yes']
metric_list: [{metric: acc}]
"""
LM_EVALS_OWN = (
    'generation_kwargs: {temperature: 0.0, do_sample: false, max_gen_toks: 256, until: ["\\n\\n"]}\n'
)
"""What lm-eval writes into a task that names none."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A directory with a task file, and its data elsewhere, as relative to where the program is started."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    for directory in ("tasks", "rivers"):
        Path(directory).mkdir()
    Path("tasks/rivers.yaml").write_text(TASK)
    for file, first in (("questions", 0), ("examples", 100)):
        lines = [
            {"question": f"Where is river {first + i}?", "choices": ["here", "there"], "answer": i % 2}
            for i in range(9)
        ]
        Path(f"rivers/{file}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    yield


def tiny_model(max_length: int = 512) -> LlamaTextModel:
    tokenizer = train_tokenizer()
    return LlamaTextModel(random_llama(len(tokenizer), max_length=max_length), tokenizer)


@pytest.mark.parametrize("mirror", [FIXTURE, None])
def test_beside_a_mirror_and_without(mirror: Path | None) -> None:
    names = ["rivers", "boolq"] if mirror else ["rivers"]
    loaded = load_tasks(names, mirror=mirror, task_path=["tasks"])
    result = evaluate(tiny_model(), names, loaded=loaded, num_fewshot=1)
    assert (result.tasks["rivers"].n, result.tasks["rivers"].version) == (9, "2.0")
    assert result.tasks["rivers"].num_fewshot == 1 and "acc,none" in result.tasks["rivers"].scores


def shown(seed: int) -> list[str]:
    loaded = load_tasks(["rivers"], task_path=["tasks"])
    set_fewshot(loaded, 3, seed)
    (task,) = loaded["tasks"].values()
    return [task.fewshot_context(doc, 3) for doc in task.eval_docs]


def test_the_seed_decides_the_examples() -> None:
    first = shown(7)
    assert first == shown(7) != shown(8)
    assert all(text.count("Where is river 10") == 3 and text.count("?") == 4 for text in first)


def test_a_limit_is_a_tasks_own_only_where_it_names_one(tmp_path: Path) -> None:
    """The model reads 256 tokens: a task that names no limit gets half of them."""
    Path("tasks/unlimited.yaml").write_text(WRITING)
    Path("tasks/limited.yaml").write_text(WRITING.replace("unlimited", "limited") + LM_EVALS_OWN)
    loaded = load_tasks(["unlimited", "limited"], task_path=[str(tmp_path / "tasks")])
    model = tiny_model(max_length=256)
    with pytest.raises(UserError, match=r"^limited: a task generates up to 256 tokens.*; leave it out$"):
        evaluate(model, ["unlimited", "limited"], loaded=loaded, limit=1)
    del loaded["tasks"]["limited"]
    assert evaluate(model, ["unlimited"], loaded=loaded, limit=1).tasks["unlimited"].n == 1


def test_the_command_line_and_a_changed_task_file(capsys: pytest.CaptureFixture[str]) -> None:
    settings = [
        f"gpt_model_file={MAIN / 'model.nemo'}",
        "tasks=[rivers]",
        "task_path=[tasks]",
        "num_fewshot=1",
        "num_threads=1",
        "output=first.json",
    ]
    assert evaluate_job(compose("evaluate", settings)) == 0
    assert read_results("first.json").tasks["rivers"].num_fewshot == 1
    capsys.readouterr()
    assert evaluate_job(compose("evaluate", settings)) == 0
    assert "evaluated before" in capsys.readouterr().out
    Path("tasks/rivers.yaml").write_text(TASK.replace("{{question}}", "Q: {{question}}"))
    with pytest.raises(Exception, match="holds the results of another evaluation"):
        evaluate_job(compose("evaluate", settings))


WITH_PROGRAM = TASK.replace('"{{question}}"', "!function utils.doc_to_text")


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("def other(doc): ...", r"^cannot load task rivers from its files: .* has no function 'doc_to_text'"),
        ("import no_such_package", r"^task rivers needs the Python package no_such_package, which is not"),
        ("\ndef (", r"^task rivers: .*tasks/utils\.py:2: SyntaxError: invalid syntax"),
        ("def doc_to_text(doc):\n    return doc['none']", r"^task rivers: .*utils\.py:2: KeyError: 'none'$"),
        (None, r"^cannot load task rivers: Cannot import module 'utils' for function 'doc_to_text'"),
    ],
)
def test_faults_of_functions_are_one_line(program: str | None, message: str) -> None:
    Path("tasks/rivers.yaml").write_text(WITH_PROGRAM)
    if program:
        Path("tasks/utils.py").write_text(program)
    with pytest.raises(UserError, match=message):
        load_tasks(["rivers"], task_path=["tasks"])


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        (
            "task: rivers",
            "task: rivers\n  x: [",
            r"^tasks/rivers\.yaml:2: mapping values are not allowed here",
        ),
        ("task: rivers", "include: none.yaml\ntask: rivers", r"^tasks/none\.yaml: No such file or directory"),
        ("doc_to_choice", "doc_to_choise", r"^cannot load task rivers from its files: .*'doc_to_choise'"),
        ("questions.jsonl", "none.jsonl", r"^cannot load task rivers from its files: .*none\.jsonl"),
        ("test_split: test", "test_split: tst", r"^cannot load task rivers from its files: it has no 'tst'"),
        ("multiple_choice", "choices", r"^cannot load task rivers from its files: .*output_type 'choices'"),
        (
            "{{answer}}",
            "answerr",
            r"^task rivers: doc_to_target gives 'answerr', which is neither one of the",
        ),
        (
            "metric: acc",
            "{metric: acu, aggregation: mean, higher_is_better: true}",
            r"^task rivers: metric_list: lm-eval has no metric 'acu'",
        ),
    ],
)
def test_faults_of_task_files_are_one_line_and_not_the_hubs(right: str, wrong: str, message: str) -> None:
    assert right in TASK
    Path("tasks/rivers.yaml").write_text(TASK.replace(right, wrong))
    with pytest.raises(UserError, match=message):
        load_tasks(["rivers"], task_path=["tasks"])


def test_data_of_a_mirror_and_functions_beside_the_task_file() -> None:
    """The mirror is the current directory while they load: the relative path is meant from here."""
    Path("tasks/own_boolq.yaml").write_text(OWN_BOOLQ.replace("question\n", "!function utils.doc_to_text\n"))
    Path("tasks/utils.py").write_text("def doc_to_text(doc):\n    return 'Own: ' + doc['question']\n")
    loaded = load_tasks(["own_boolq"], mirror=FIXTURE, task_path=["tasks"])
    task = loaded["tasks"]["own_boolq"]
    assert task.doc_to_text(task.eval_docs[0]).startswith("Own: ")


def test_a_command_that_fetches_for_own_tasks_works_as_it_is_printed(tmp_path: Path) -> None:
    """From another directory of task files, whose name a shell would take apart."""
    Path("my tasks").mkdir()
    Path("my tasks/own_boolq.yaml").write_text(OWN_BOOLQ)
    mirror, task_path = tmp_path / "the mirror", ["my tasks"]
    prefetch(mirror, ["boolq", "own_boolq"], source=FIXTURE, task_path=task_path)

    def asked_for(change: Callable[[], None], names: list[str]) -> list[str]:
        change()
        with pytest.raises(UserError) as refused:
            load_tasks(names, mirror=mirror, task_path=task_path)
        _, fetch, command = str(refused.value).partition("python -m tools.prefetch_benchmarks ")
        assert fetch
        return shlex.split(command)

    file = split_file(mirror, "aps/super_glue/boolq/validation")

    def damage() -> None:
        file.write_bytes(b"")

    def make_stale() -> None:
        manifest = read_manifest(mirror)
        for facts in manifest.values():
            facts["made_for"]["own_boolq"]["version"] = "9"
        write_index(mirror, manifest)

    def empty() -> None:
        write_index(mirror, {})

    for change in (damage, make_stale, empty):
        main([*asked_for(change, ["own_boolq"]), "--source", str(FIXTURE)])
        assert load_tasks(["own_boolq"], mirror=mirror, task_path=task_path)["tasks"]
    # What needs no directory of the user's own is fetched without.
    assert "--task-path" not in asked_for(empty, ["boolq"])


@pytest.mark.parametrize("files", ["rivers/questions.jsonl", "rivers/q*.jsonl"])
def test_changed_data_is_another_evaluation(files: str) -> None:
    Path("tasks/rivers.yaml").write_text(TASK.replace("rivers/questions.jsonl", files))
    settings = [f"gpt_model_file={MAIN / 'model.nemo'}", "tasks=[rivers]", "task_path=[tasks]"]

    def seen() -> Any:
        return settings_of(compose("evaluate", settings))["task_files"]

    before = seen()
    assert before == seen() and "tasks/rivers.yaml" in before
    questions = Path("rivers/questions.jsonl")
    questions.write_text(questions.read_text().replace("river 3", "river 33"))
    assert {path for path, sha256 in seen().items() if before.get(path) != sha256} == {str(questions)}
