"""Benchmarks without network: mirrors, copies of mirrors, and what is wrong with them."""

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import datasets
import huggingface_hub.constants
import pyarrow.parquet as parquet
import pytest
import torch

from recipes.config.hydra_app import compose
from recipes.data.benchmark_mirror import (
    in_place_of_hub,
    read_manifest,
    sha256_file,
    split_file,
    verified_hash,
    write_index,
)
from recipes.errors import UserError
from recipes.evaluate import run as evaluate_job
from recipes.evaluation.run import evaluate
from recipes.evaluation.task_files import versions_of
from recipes.evaluation.tasks import check_tasks, load_tasks
from recipes.report.evaluation_result import EvaluationResult
from recipes.report.evaluation_table import render
from tests.support.nemo_files import FIXTURES
from tests.support.paths import ROOT
from tests.support.tiny_text_model import (
    FIXTURE,
    LlamaTextModel,
    build_mirror,
    mmlu_subjects,
    random_llama,
    train_tokenizer,
)
from tools.prefetch_benchmarks import prefetch

TASKS = ["arc_easy", "boolq", "multirc", "m_mmlu_hi", "triviaqa", "truthfulqa_mc1", "truthfulqa_mc2"]


@pytest.fixture(autouse=True)
def no_network_and_an_own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("something reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    torch.set_num_threads(1)
    yield


def tiny_model() -> LlamaTextModel:
    tokenizer = train_tokenizer()
    return LlamaTextModel(random_llama(len(tokenizer)), tokenizer)


def without_seconds(result: EvaluationResult) -> dict[str, Any]:
    return {
        "tasks": result.tasks,
        "requested": result.requested,
        "settings": {**result.settings, "mirror_sha256": 0},
    }


def test_a_mirror_of_a_mirror_gives_the_same_results(tmp_path: Path) -> None:
    second = tmp_path / "second"
    prefetch(second, TASKS, source=FIXTURE)
    results = [evaluate(tiny_model(), TASKS, mirror=mirror) for mirror in (FIXTURE, second)]
    assert without_seconds(results[0]) == without_seconds(results[1])
    assert results[0].settings["mirror_sha256"] == verified_hash(FIXTURE)
    assert set(results[0].tasks) == set(TASKS)


def test_constant_answers_of_stock_tasks(tmp_path: Path) -> None:
    result = evaluate(tiny_model(), TASKS, mirror=FIXTURE, bootstrap_iters=0)

    def column(entry: str, name: str) -> list[Any]:
        return parquet.read_table(split_file(FIXTURE, entry))[name].to_pylist()

    letters = column("alexandrainst/m_mmlu/hi/test", "answer")
    labels = column("aps/super_glue/boolq/validation", "label")
    assert result.tasks["m_mmlu_hi"].constant_answer == max(map(letters.count, "ABCD")) / len(letters)
    assert result.tasks["boolq"].constant_answer == max(map(labels.count, (0, 1))) / len(labels)
    # Nothing to guess: free text, and lists whose right answer is first by convention.
    assert {result.tasks[task].constant_answer for task in TASKS if task.startswith("tr")} == {None}


def test_a_changed_mirror_gives_its_new_rows(tmp_path: Path) -> None:
    mirror = build_mirror(tmp_path / "mirror")
    before = evaluate(tiny_model(), ["boolq"], mirror=mirror, bootstrap_iters=0).tasks["boolq"]
    entry = "aps/super_glue/boolq/validation"
    table = parquet.read_table(split_file(mirror, entry))
    parquet.write_table(table.slice(0, 1), split_file(mirror, entry))
    with pytest.raises(UserError, match="differs from manifest"):
        evaluate(tiny_model(), ["boolq"], mirror=mirror)
    manifest = read_manifest(mirror)
    manifest[entry] |= {"rows": 1, "sha256": sha256_file(split_file(mirror, entry))}
    write_index(mirror, manifest)
    after = evaluate(tiny_model(), ["boolq"], mirror=mirror, bootstrap_iters=0).tasks["boolq"]
    assert (before.n, after.n) == (2, 1)


def test_a_damaged_mirror_is_told_with_the_command_that_mends_it(tmp_path: Path) -> None:
    mirror = build_mirror(tmp_path / "mirror")
    file = split_file(mirror, "truthfulqa/truthful_qa/multiple_choice/validation")
    mend = rf"python -m tools.prefetch_benchmarks {mirror} --tasks .*truthfulqa_mc1,truthfulqa_mc2"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{file} differs from manifest.json: fetch it again with {mend}"):
        load_tasks(["boolq"], mirror=mirror)
    file.unlink()
    with pytest.raises(UserError, match=f"{file} is missing, which manifest.json names: .*{mend}"):
        load_tasks(["boolq"], mirror=mirror)


def test_a_dry_run_checks_the_files_of_a_mirror(tmp_path: Path) -> None:
    mirror = build_mirror(tmp_path / "mirror")
    model = FIXTURES / "classic_te_torch_dist" / "model.nemo"
    settings = [f"gpt_model_file={model}", "tasks=[boolq]", f"mirror={mirror}", "dry_run=true"]
    config = compose("evaluate", [*settings, f"output={tmp_path / 'x.json'}"])
    assert evaluate_job(config) == 0
    split_file(mirror, "aps/super_glue/boolq/validation").write_bytes(b"")
    with pytest.raises(UserError, match=r"differs from manifest\.json"):
        evaluate_job(config)


@pytest.mark.parametrize("linked", [False, True])
def test_a_mirror_runs_no_program(linked: bool, tmp_path: Path) -> None:
    """Some of lm-eval's tasks load their metric by its name while the mirror is the current directory."""
    mirror = build_mirror(tmp_path / "mirror")
    programs = (tmp_path if linked else mirror) / "accuracy"
    programs.mkdir()
    (programs / "accuracy.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    if linked:
        (mirror / "accuracy").symlink_to(programs)
        (mirror / "again").symlink_to(mirror)
    (mirror.parent / "tasks").mkdir()
    (mirror.parent / "tasks" / "loud.yaml").write_text(
        "task: loud\ndataset_path: aps/super_glue\ndataset_name: boolq\nvalidation_split: validation\n"
        "output_type: generate_until\ndoc_to_text: question\ndoc_to_target: passage\n"
        "metric_list: [{metric: accuracy, hf_evaluate: true, aggregation: mean, higher_is_better: true}]\n"
    )
    with pytest.raises(UserError, match=r"mirror holds a program, 'accuracy.py'; a mirror is"):
        load_tasks(["loud"], mirror=mirror, task_path=[str(mirror.parent / "tasks")])
    assert not (tmp_path / "ran").exists()


def test_a_mirror_for_another_version_of_a_task_is_refused(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    prefetch(mirror, ["boolq", "wic"], source=FIXTURE)
    manifest = read_manifest(mirror)
    for facts in manifest.values():
        facts["made_for"] = {
            task: noted | {"lm_eval": "0.4.9", "version": "1.9" if task == "boolq" else noted["version"]}
            for task, noted in facts["made_for"].items()
        }
    write_index(mirror, manifest)
    assert set(load_tasks(["wic"], mirror=mirror)["tasks"]) == {"wic"}
    with pytest.raises(UserError) as refused:
        load_tasks(["wic", "boolq"], mirror=mirror)
    assert str(refused.value) == (
        f"the mirror {mirror} was made for version 1.9 of the task boolq (lm-eval 0.4.9); lm-eval "
        f"{version('lm_eval')} has version 2.0: fetch it again with python -m tools.prefetch_benchmarks "
        f"{mirror} --tasks boolq"
    )
    with pytest.raises(UserError, match=re.escape(str(refused.value))):  # Known from the task files alone.
        check_tasks(["wic", "boolq"], mirror)
    prefetch(mirror, ["boolq"], source=FIXTURE)
    assert "boolq" in load_tasks(["boolq"], mirror=mirror)["tasks"]


def test_all_that_is_stale_is_fetched_with_one_command(tmp_path: Path) -> None:
    mirror = build_mirror(tmp_path / "mirror", mmlu_subjects())
    manifest = read_manifest(mirror)
    for entry, facts in manifest.items():
        then = "9.9" if "mmlu" in entry or "ai2_arc" in entry else "2.0"
        facts["made_for"] = {task: {"version": then, "lm_eval": "0.4.9"} for task in facts["tasks"]}
    write_index(mirror, manifest)
    with pytest.raises(UserError) as refused:
        check_tasks(["boolq", "mmlu", "arc_easy"], mirror)
    assert str(refused.value).endswith(
        ", and 1 other changed too: fetch it again with python -m tools.prefetch_benchmarks "
        f"{mirror} --tasks mmlu,arc_easy"
    )


def test_versions_are_known_without_loading() -> None:
    names = ["sglue_rte", "triviaqa", "truthfulqa_gen", "hellaswag_hi", "mmlu_abstract_algebra"]
    loaded = load_tasks(names, mirror=FIXTURE)["tasks"]
    assert versions_of(names) == {name: str(task.VERSION) for name, task in loaded.items()}


def test_everything_is_as_before_after_loading(tmp_path: Path) -> None:
    def state() -> tuple[Any, ...]:
        hub = huggingface_hub.constants.HF_HUB_OFFLINE
        return (
            hub,
            datasets.config.HF_HUB_OFFLINE,
            datasets.config.HF_DATASETS_CACHE,
            Path.cwd(),
            dict(os.environ),
        )

    before = state()
    with pytest.raises(RuntimeError), in_place_of_hub(FIXTURE):
        assert huggingface_hub.constants.HF_HUB_OFFLINE and Path.cwd() == FIXTURE
        raise RuntimeError
    assert state() == before


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    mirror = build_mirror(tmp_path / "mirror")
    with pytest.raises(UserError, match=r"no task 'arc_eazy': did you mean .*arc_easy"):
        evaluate(tiny_model(), ["arc_eazy"], mirror=mirror)
    with pytest.raises(
        UserError, match=rf"cannot load task winogrande from the mirror {mirror}.*--tasks winogrande"
    ):
        evaluate(tiny_model(), ["winogrande"], mirror=mirror)
    with pytest.raises(UserError, match="cannot load task mmlu_anatomy"):
        evaluate(tiny_model(), ["mmlu_anatomy"], mirror=mirror)
    with pytest.raises(UserError, match="is not a benchmark mirror"):
        evaluate(tiny_model(), ["boolq"], mirror=tmp_path)
    for damaged in ("{", "[]", '{"aps/super_glue/boolq/test": 3}', '{"aps/super_glue/boolq/test": {}}'):
        (mirror / "manifest.json").write_text(damaged)
        with pytest.raises(UserError, match=r"is damaged: .*; delete it, and fetch the mirror again"):
            evaluate(tiny_model(), ["boolq"], mirror=mirror)


def test_all_that_a_mirror_lacks_is_fetched_with_one_command() -> None:
    with pytest.raises(UserError) as refused:
        check_tasks(["boolq", "winogrande", "bhs_hindi", "arc_hi"], FIXTURE)
    assert str(refused.value).startswith(f"cannot load task winogrande from the mirror {FIXTURE}: it has no ")
    assert str(refused.value).endswith(
        ", and what 2 others need; fetch it with python -m tools.prefetch_benchmarks "
        f"{FIXTURE} --tasks winogrande,bhs_hindi,arc_hi"
    )


def test_a_tag_is_its_members() -> None:
    result = evaluate(tiny_model(), ["boolq", "ai2_arc"], mirror=FIXTURE, limit=1, bootstrap_iters=0)
    assert result.requested == ["boolq", "ai2_arc"]
    tag = result.tasks["ai2_arc"]
    assert (tag.scores, tag.n, sorted(tag.tasks)) == ({}, 2, ["arc_challenge", "arc_easy"])
    table = render([result]).splitlines()[2:]
    assert [line.split()[1] for line in table] == ["boolq", *(task for task in tag.tasks for _ in range(2))]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langdetect", None)  # so that it cannot be imported, installed or not
    # As if its data were there:
    monkeypatch.setattr("recipes.evaluation.tasks.data_sets_of", lambda *_: [])
    with pytest.raises(UserError, match="task ifeval needs the Python package langdetect, which is not"):
        load_tasks(["ifeval"], mirror=FIXTURE)


def test_fewshot_examples_come_before_the_question(tmp_path: Path) -> None:
    results = [
        evaluate(tiny_model(), ["arc_easy", "truthfulqa_mc1"], mirror=FIXTURE, num_fewshot=n) for n in (0, 2)
    ]
    assert [result.tasks["arc_easy"].num_fewshot for result in results] == [0, 2]
    assert [result.tasks["truthfulqa_mc1"].num_fewshot for result in results] == [0, 0]


@pytest.mark.slow
def test_groups_are_weighted_by_size(tmp_path: Path) -> None:
    result = evaluate(tiny_model(), ["mmlu"], mirror=build_mirror(tmp_path / "mirror", mmlu_subjects()))
    group = result.tasks["mmlu"]
    parts = [result.tasks[name] for name in group.tasks]
    assert (len(parts), group.n) == (57, sum(part.n for part in parts))
    hits = sum(part.scores["acc,none"].value * part.n for part in parts)
    assert group.scores["acc,none"].value == pytest.approx(hits / group.n)
    assert group.constant_answer == pytest.approx(parts[0].constant_answer)


@pytest.mark.slow
def test_a_hub_that_answers_and_then_fails_is_one_line() -> None:
    """As behind some proxies: every connection is accepted and cut off."""
    server = socket.create_server(("127.0.0.1", 0))

    def cut_off() -> None:
        while True:
            server.accept()[0].close()

    threading.Thread(target=cut_off, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
    model = FIXTURES / "classic_te_torch_dist" / "model.nemo"
    done = subprocess.run(
        [sys.executable, "-m", "recipes.evaluate", f"gpt_model_file={model}", "tasks=[boolq]"],
        env=os.environ | {"HF_ENDPOINT": endpoint, "NO_PROXY": "127.0.0.1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: cannot load task boolq: the Hugging Face hub fails: ")
    assert "set mirror=DIR" in done.stderr
